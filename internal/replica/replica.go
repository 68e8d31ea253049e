// Package replica stores what each gateway process reports about itself. Operators
// see from it which processes run, which have the master switch on, and which fail.
//
// Each process writes one row of automation_replicas every [Interval], and
// deletes it when it shuts down. A row that was not written for a minute belongs to a
// process that has crashed or has lost its database; the clean-up deletes the row a day
// later. The same transaction adds how requests ended since the last report to
// automation_activity, which reviews of rollouts use. At most twice a minute it also adds
// the errors that users got to automation_user_failures.
package replica

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/buildinfo"
	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

const (
	// Interval is how often a process reports.
	Interval = 10 * time.Second
	// problemInterval is how often a process with problems reports, such as one that has
	// just started, so that a recovery is visible soon.
	problemInterval = 2 * time.Second
	// maxReportAge is how long after its last report a process counts as running.
	maxReportAge = time.Minute
)

// State is what a process reports about itself.
type State struct {
	FeatureEnabled bool              `json:"master_on" db:"feature_enabled"` // the process's master switch
	FlagVersion    int64             `json:"flag_version" db:"flag_version"` // of the flag that it uses; 0: never read
	FlagAge        time.Duration     `json:"-" db:"-"`                       // since it last read the flags
	Problems       map[string]string `json:"problems" db:"-"`                // what does not work, by component
	Figures        Figures           `json:"-" db:"-"`                       // chat requests of the last five minutes
	Rates
}

// Rates count the requests of the last minute.
type Rates struct {
	Requests     int64 `json:"outcomes" db:"requests"`           // requests that automation acted on
	Failures     int64 `json:"failures" db:"failures"`           // requests that failed
	NodeFailures int64 `json:"node_failures" db:"node_failures"` // requests that failed because of the node
}

// Replica is one process, as it last reported.
type Replica struct {
	ID         string     `json:"id" db:"id"`
	Host       string     `json:"host" db:"host"`
	Version    string     `json:"version" db:"version"`
	StartedAt  sqldb.Time `json:"started_at" db:"started_at"`
	SeenAt     sqldb.Time `json:"seen_at" db:"seen_at"`
	DatabaseAt sqldb.Time `json:"database_at" db:"-"` // when the database last answered it; the same as SeenAt
	FlagsAt    time.Time  `json:"flags_at" db:"-"`    // when the process last read the flags
	NodeOK     bool       `json:"node_ok" db:"-"`
	State
}

// Store reads and writes the table automation_replicas.
type Store struct{ db *sqldb.DB }

// NewStore returns a Store on the host's pool that uses at most one connection at a time.
// observe, if not nil, is that of sqldb.Options.
func NewStore(pool *sqlx.DB, observe func(name string, wait, took time.Duration, err error)) *Store {
	return &Store{sqldb.New(pool, sqldb.Options{MaxConns: 1, Observe: observe})}
}

// Counters hold the counts that a process has not reported yet.
type Counters struct {
	Requests *Counter
	Failures *Failures
	Now      func() time.Time // the clock that the times in Failures come from
}

// Run reports state and the counters every Interval until ctx ends. Of several failed
// reports in a row it logs only the first, because operators see that the reports are
// missing. Users' failures are written at most twice a minute, and not while the database
// fails or is slow.
func (s *Store) Run(ctx context.Context, log *slog.Logger, c Counters, state func() State) {
	r := Report{ID: rand.Text(), Number: 1}
	isFailing, isFast, lastFailures := false, true, c.Now()
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		// A failed report may have been applied, so it is repeated with the same number
		// and activity.
		if r.Activity == nil {
			r.Activity = c.Requests.Take()
		}
		r.State, r.At = state(), c.Now()
		if isFast && r.At.Sub(lastFailures) >= failuresInterval {
			r.UserFailures, lastFailures = c.Failures.take(), r.At
		}
		err := s.Report(ctx, r)
		if err == nil {
			r.Number, r.Activity = r.Number+1, nil
		} else {
			c.Failures.Add(r.UserFailures...)
			if !isFailing && ctx.Err() == nil {
				log.Warn("replica cannot report its state", "error", err)
			}
		}
		r.UserFailures, isFailing = nil, err != nil
		isFast = err == nil && c.Now().Sub(r.At) < slowReport
		if len(r.Problems) > 0 {
			return problemInterval
		}
		return Interval
	})
	if isFast {
		r.UserFailures, r.At = c.Failures.take(), c.Now()
	}
	s.withdraw(context.WithoutCancel(ctx), log, r, c.Requests)
}

// withdraw reports the remaining counts and deletes the process's row. r may be a report
// that failed.
func (s *Store) withdraw(ctx context.Context, log *slog.Logger, r Report, counter *Counter) {
	var errs []error
	if len(r.Activity) > 0 {
		errs = append(errs, s.Report(ctx, r))
		r.Number, r.UserFailures = r.Number+1, nil
	}
	if r.Activity = counter.Take(); len(r.Activity)+len(r.UserFailures) > 0 {
		errs = append(errs, s.Report(ctx, r))
	}
	_, err := sqldb.Write(ctx, s.db, "replicas.leave", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM automation_replicas WHERE id = $1`, r.ID)
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		log.Warn("replica cannot delete its row; it counts as running for another minute", "error", err)
	}
}

// Report is one report of a process.
type Report struct {
	ID     string // of the process
	Number int64  // from 1; a report whose number was already written changes nothing
	State
	Activity     []Activity // since the previous report
	UserFailures []Failure
	At           time.Time // the current time of the clock that the times in UserFailures come from
}

// Report writes the row of a process, and adds its activity and its users' failures.
func (s *Store) Report(ctx context.Context, r Report) error {
	problems, err := json.Marshal(r.Problems)
	if err != nil || r.Problems == nil {
		problems = []byte("{}")
	}
	figures, err := json.Marshal(r.Figures)
	if err != nil {
		return fmt.Errorf("replica: report: %w", err)
	}
	host, _ := os.Hostname() // a report without a host name is still useful
	_, err = sqldb.Write(ctx, s.db, "replicas.report", func(tx *sqldb.Tx) (bool, error) {
		var seen sqldb.Time
		isNew, err := sqldb.Optional(tx.Get(&seen, `
INSERT INTO automation_replicas (id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, problems, requests, failures, node_failures, reports, figures)
VALUES ($1, $2, $3, {now}, {now}, $4, $5, $6, {json $7}, $8, $9, $10, $11, {json $12})
ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, feature_enabled = excluded.feature_enabled, flag_version = excluded.flag_version,
	flag_age = excluded.flag_age, problems = excluded.problems, requests = excluded.requests, failures = excluded.failures, node_failures = excluded.node_failures,
	reports = excluded.reports, figures = excluded.figures
WHERE automation_replicas.reports < excluded.reports RETURNING seen_at`,
			r.ID, text.Truncate(host, 200), text.Truncate(buildinfo.Version(), 100), r.FeatureEnabled, r.FlagVersion, r.FlagAge.Seconds(),
			string(problems), r.Requests, r.Failures, r.NodeFailures, r.Number, string(figures)))
		if err != nil || !isNew {
			return isNew, err
		}
		if err := addActivity(tx, seen.Time, r.Activity); err != nil {
			return true, err
		}
		return true, addFailures(tx, r.At, r.UserFailures)
	})
	return err
}

// addActivity adds activity to the rows of the current period. All replicas lock the rows in
// the same order, which prevents deadlocks.
func addActivity(tx *sqldb.Tx, now time.Time, list []Activity) error {
	if len(list) == 0 {
		return nil
	}
	args := []any{now.Truncate(Period).Unix()}
	rows := make([]string, len(list))
	for i, a := range list {
		n := len(args)
		rows[i] = fmt.Sprintf("({unix $1}, $%d, $%d, $%d, $%d, $%d, $%d, $%d, $%d)", n+1, n+2, n+3, n+4, n+5, n+6, n+7, n+8)
		args = append(args, a.Kind, a.Cause, a.Evidence, a.Requests, a.Slow, a.DatabaseSlow, a.LatencyUS, a.DatabaseUS)
	}
	_, err := tx.Exec(`INSERT INTO automation_activity AS a (period, kind, cause, evidence, requests, slow, db_slow, latency_us, db_us) VALUES `+strings.Join(rows, ", ")+`
ON CONFLICT (period, kind, cause) DO UPDATE SET requests = a.requests + excluded.requests, slow = a.slow + excluded.slow, db_slow = a.db_slow + excluded.db_slow,
	latency_us = a.latency_us + excluded.latency_us, db_us = a.db_us + excluded.db_us`, args...)
	return err
}

// List returns the processes that are running, by host and start.
func (s *Store) List(ctx context.Context) ([]Replica, error) {
	list, err := sqldb.Read(ctx, s.db, "replicas.list", func(tx *sqldb.Tx) ([]Replica, error) {
		var rows []struct {
			Replica
			FlagAge  float64                       `db:"flag_age"`
			Problems sqldb.JSON[map[string]string] `db:"problems"`
			Figures  sqldb.JSON[Figures]           `db:"figures"`
		}
		err := tx.Select(&rows, `
SELECT id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, problems, requests, failures, node_failures, figures
FROM automation_replicas WHERE seen_at > {in -$1} ORDER BY host, started_at, id`, maxReportAge.Seconds())
		list := make([]Replica, 0, len(rows))
		for _, r := range rows {
			v := r.Replica
			v.Problems, v.Figures, v.FlagAge = r.Problems.V, r.Figures.V, time.Duration(r.FlagAge*float64(time.Second))
			v.DatabaseAt, v.FlagsAt, v.NodeOK = v.SeenAt, v.SeenAt.Add(-v.FlagAge), v.Problems["node"] == ""
			list = append(list, v)
		}
		return list, err
	})
	if err != nil {
		return nil, fmt.Errorf("replica: list: %w", err)
	}
	return list, nil
}
