// Package replica stores what each gateway process reports of itself, so that
// operators see what users get: which run, which have the master switch on, and
// which fail.
//
// Each process writes one row of automation_replicas every [Interval], and
// deletes it when it ends in an orderly way. A row that was not written for a
// minute is of a process that is gone or has lost its database; the clean-up
// deletes it a day later. In the same transaction it adds how requests ended
// since its last report to automation_activity, by which rollouts are reviewed,
// and now and then which errors users got to automation_user_failures.
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
	// problemInterval is how often it does while something does not work, such
	// as in its first moments, so that a recovery shows at once.
	problemInterval = 2 * time.Second
	// alive is how long after its last report a process counts as running.
	alive = time.Minute
)

// State is what a process says of itself.
type State struct {
	FeatureEnabled bool              `json:"master_on" db:"feature_enabled"` // its master switch
	FlagVersion    int64             `json:"flag_version" db:"flag_version"` // of the flag that it decides by; 0: never read
	FlagAge        time.Duration     `json:"-" db:"-"`                       // since it last read the flags
	Problems       map[string]string `json:"problems" db:"-"`                // what does not work, by component
	Figures        Figures           `json:"-" db:"-"`                       // of the chat requests of the last five minutes
	Rates
}

// Rates count the requests of the last minute.
type Rates struct {
	Requests     int64 `json:"outcomes" db:"requests"`           // that automation acted on
	Failures     int64 `json:"failures" db:"failures"`           // of those
	NodeFailures int64 `json:"node_failures" db:"node_failures"` // of those, because of the node
}

// Replica is one process, as it last reported.
type Replica struct {
	ID         string     `json:"id" db:"id"`
	Host       string     `json:"host" db:"host"`
	Version    string     `json:"version" db:"version"`
	StartedAt  sqldb.Time `json:"started_at" db:"started_at"`
	SeenAt     sqldb.Time `json:"seen_at" db:"seen_at"`
	DatabaseAt sqldb.Time `json:"database_at" db:"-"` // when it last had an answer, which the report itself is
	FlagsAt    time.Time  `json:"flags_at" db:"-"`    // when it last read the flags
	NodeOK     bool       `json:"node_ok" db:"-"`
	State
}

// Store reads and writes the table automation_replicas.
type Store struct{ db *sqldb.DB }

// NewStore returns a Store on the host's pool; it uses one connection at most.
func NewStore(pool *sqlx.DB, observe func(name string, wait, took time.Duration, err error)) *Store {
	return &Store{sqldb.New(pool, sqldb.Options{MaxConns: 1, Observe: observe})}
}

// Counters are what a process has counted and not reported yet.
type Counters struct {
	Requests *Counter
	Failures *Failures
	Now      func() time.Time // the clock of the failures
}

// Run reports state, and what the counters have counted, every Interval until
// ctx ends. A report that fails is logged once until one succeeds: the others
// show that it is missing. Users' failures go along twice a minute at most, and
// not while the database fails or is slow.
func (s *Store) Run(ctx context.Context, log *slog.Logger, c Counters, state func() State) {
	r, failing, wrote, quick := Report{ID: rand.Text(), Number: 1}, false, c.Now(), true
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		if r.Activity == nil { // otherwise a report that failed is made again as it was
			r.Activity = c.Requests.Take()
		}
		r.State, r.At = state(), c.Now()
		if quick && r.At.Sub(wrote) >= failuresInterval {
			r.UserFailures, wrote = c.Failures.take(), r.At
		}
		err := s.Report(ctx, r)
		if err == nil {
			r.Number, r.Activity = r.Number+1, nil
		} else {
			c.Failures.Add(r.UserFailures...)
			if !failing && ctx.Err() == nil {
				log.Warn("replica cannot report itself", "error", err)
			}
		}
		r.UserFailures, failing, quick = nil, err != nil, err == nil && c.Now().Sub(r.At) < slowReport
		if len(r.Problems) > 0 {
			return problemInterval
		}
		return Interval
	})
	if quick {
		r.UserFailures, r.At = c.Failures.take(), c.Now()
	}
	s.leave(context.WithoutCancel(ctx), log, r, c.Requests)
}

// leave reports what is still to be counted and withdraws the process.
func (s *Store) leave(ctx context.Context, log *slog.Logger, r Report, counter *Counter) {
	var errs []error
	if len(r.Activity) > 0 { // of a report that failed
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
		log.Warn("replica cannot withdraw its report; it counts as running for a minute", "error", err)
	}
}

// Report is what a process says at one time.
type Report struct {
	ID     string // the process's
	Number int64  // 1 at first; a number that was written already writes nothing
	State
	Activity     []Activity // since the report before
	UserFailures []Failure
	At           time.Time // by the clock of the users' failures
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
	host, _ := os.Hostname() // a replica without a name is still one
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
		if err := add(tx, seen.Time, r.Activity); err != nil {
			return true, err
		}
		return true, addFailures(tx, r.At, r.UserFailures)
	})
	return err
}

// add adds activity to its period. All replicas take the rows in one order, so
// that none waits for another in a circle.
func add(tx *sqldb.Tx, now time.Time, list []Activity) error {
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
FROM automation_replicas WHERE seen_at > {in -$1} ORDER BY host, started_at, id`, alive.Seconds())
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
