// Package fleet gathers what operators look at first: how the feature fares on
// all replicas together, what sessions were opened for, why one user's requests
// failed, and which alerts have their condition met.
package fleet

import (
	"context"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store reads it from the database. Every query is served by an index; the
// counts that read much are made once a minute at most.
type Store struct {
	db     *sqldb.DB
	optIns func(context.Context) (on, off int64, err error)
	now    func() time.Time

	counting sync.Mutex // held while the counts are made
	mu       sync.Mutex
	counts   Counts
}

// NewStore returns a Store on the host's pool. OptIns counts the users by their
// stored settings. It does no I/O.
func NewStore(pool *sqlx.DB, observe func(name string, wait, took time.Duration, err error), optIns func(context.Context) (on, off int64, err error), now func() time.Time) *Store {
	return &Store{db: sqldb.New(pool, sqldb.Options{MaxConns: 1, Observe: observe}), optIns: optIns, now: now}
}

// Counts are figures that change slowly and read many rows.
type Counts struct {
	At         time.Time // when they were made
	OptedIn    int64     // users whose stored settings have automation on
	OptedOut   int64
	ActiveWeek int64 // users for whom a session was opened in the last seven days
}

// countsMaxAge is how long counts are served again.
const countsMaxAge = time.Minute

// Counts returns the counts, at most a minute old. While they are being made
// again, others get the ones before.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	if c := s.last(); s.isFresh(c) {
		return c, nil
	}
	if !s.counting.TryLock() {
		if c := s.last(); !c.At.IsZero() {
			return c, nil
		}
		s.counting.Lock() // there are none yet
	}
	defer s.counting.Unlock()
	if c := s.last(); s.isFresh(c) {
		return c, nil // another request has just made them
	}
	c := Counts{At: s.now()}
	var err error
	if c.OptedIn, c.OptedOut, err = s.optIns(ctx); err != nil {
		return Counts{}, err
	}
	if c.ActiveWeek, err = s.countActive(ctx); err != nil {
		return Counts{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = c
	return c, nil
}

func (s *Store) last() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

func (s *Store) isFresh(c Counts) bool { return !c.At.IsZero() && s.now().Sub(c.At) < countsMaxAge }

// Sets of states, and of the reasons why the node was never asked.
const (
	opened    = `'` + sessionsql.StateOpen + `', '` + sessionsql.StateEnding + `', '` + sessionsql.StateClosed + `'`
	notOpened = `'` + sessionsql.StateFailed + `', '` + sessionsql.StateLost + `'`
	pending   = `'` + sessionsql.StateOpening + `', '` + sessionsql.StateUnknown + `'`
	notAsked  = `'` + sessionsql.ReasonNotAsked + `', '` + sessionsql.ReasonNotNeeded + `'`
)

// DISTINCT in a query of its own is hashed, where count(DISTINCT …) sorts.
const activeQuery = `SELECT count(*) FROM (SELECT DISTINCT user_id FROM automation_sessions
	WHERE created_at > {in -604800} AND user_id <> '' AND state NOT IN (` + notOpened + `)) AS active`

func (s *Store) countActive(ctx context.Context) (int64, error) {
	return sqldb.Read(ctx, s.db, "fleet.active_users", func(tx *sqldb.Tx) (n int64, err error) {
		return n, tx.Get(&n, activeQuery)
	})
}

// Opens counts the sessions that were asked for within the last hour for one
// purpose: request, renewal, prewarm or replacement.
type Opens struct {
	Purpose string `json:"purpose" db:"purpose"`
	Opened  int64  `json:"opened" db:"opened"`
	Failed  int64  `json:"failed" db:"failed"`   // the node opened nothing, or nobody knows
	Pending int64  `json:"pending" db:"pending"` // being opened, or to be looked for on the chain
	// RecentOpened and RecentFailed are those of the last half hour.
	RecentOpened int64 `json:"-" db:"recent_opened"`
	RecentFailed int64 `json:"-" db:"recent_failed"`
}

// Figures are small counts that are read each time.
type Figures struct {
	Opens       []Opens
	FlagChanges int64     // of the flag within the last hour
	Orphans     int64     // opens of which nobody knows for a quarter of an hour whether they were paid
	CleanedAt   time.Time // when a clean-up last came to its end; zero: never
}

// Opens that were given up before the node was asked are neither opened nor failed.
const opensQuery = `SELECT purpose,
		count(CASE WHEN state IN (` + opened + `) THEN 1 END) AS opened,
		count(CASE WHEN state IN (` + notOpened + `) THEN 1 END) AS failed,
		count(CASE WHEN state IN (` + pending + `) THEN 1 END) AS pending,
		count(CASE WHEN state IN (` + opened + `) AND created_at > {in -1800} THEN 1 END) AS recent_opened,
		count(CASE WHEN state IN (` + notOpened + `) AND created_at > {in -1800} THEN 1 END) AS recent_failed
	FROM automation_sessions WHERE created_at > {in -3600} AND NOT (state = '` + sessionsql.StateFailed + `' AND reason IN (` + notAsked + `))
	GROUP BY purpose ORDER BY purpose`

const (
	flagChangesQuery = `SELECT count(*) FROM feature_flag_events WHERE feature_name = $1 AND changed_at > {in -3600} AND action IN ('insert', 'update', 'delete')`
	orphansQuery     = `SELECT count(*) FROM automation_sessions WHERE state = '` + sessionsql.StateUnknown + `' AND created_at < {in -900}`
)

// Figures reads them, for the flag of that name.
func (s *Store) Figures(ctx context.Context, flag string) (Figures, error) {
	return sqldb.Read(ctx, s.db, "fleet.figures", func(tx *sqldb.Tx) (Figures, error) {
		f := Figures{Opens: []Opens{}}
		if err := tx.Select(&f.Opens, opensQuery); err != nil {
			return f, err
		}
		if err := tx.Get(&f.FlagChanges, flagChangesQuery, flag); err != nil {
			return f, err
		}
		if err := tx.Get(&f.Orphans, orphansQuery); err != nil {
			return f, err
		}
		var cleaned []sqldb.Time
		if err := tx.Select(&cleaned, `SELECT finished_at FROM automation_jobs WHERE name = 'cleanup' AND finished_at IS NOT NULL`); err != nil {
			return f, err
		}
		if len(cleaned) > 0 {
			f.CleanedAt = cleaned[0].Time
		}
		return f, nil
	})
}

// Failure is one thing that went wrong for a user, as the database has it:
// nothing of it says what they asked.
type Failure struct {
	At       time.Time `json:"at"`    // of several, the last
	Cause    string    `json:"cause"` // open_failed, or one of package outcome
	ModelID  string    `json:"-"`
	Model    string    `json:"model"`
	Provider string    `json:"provider"`
	Detail   string    `json:"detail"` // why, or the code that the user got
	// Requests is how many failed alike since Since; 0 is not counted.
	Requests int64     `json:"requests"`
	Since    time.Time `json:"since,omitzero"`
}

// maxFailures is the most that are returned of each kind.
const maxFailures = 20

// The errors that the user got; their sessions that could not be opened, or that
// broke; and the providers that failed for them.
const (
	errorsQuery = `SELECT cause, code, began_at, failed_at, requests FROM automation_user_failures WHERE user_id = $1 ORDER BY failed_at DESC LIMIT $2`
	brokenQuery = `SELECT COALESCE(closed_at, created_at) AS at, model_id, provider, state, reason, last_error FROM automation_sessions
		WHERE user_id = $1 AND user_id <> '' AND (state IN (` + notOpened + `) AND reason NOT IN (` + notAsked + `) OR reason IN ('` + sessionsql.ReasonExpired + `', '` + sessionsql.ReasonMismatch + `'))
		ORDER BY created_at DESC LIMIT $2`
	providerQuery = `SELECT provider, failed_at FROM automation_provider_failures WHERE user_id = $1 ORDER BY failed_at DESC LIMIT $2`
)

// Failures returns what lately went wrong for a user, the latest first. The
// errors are as replicas have reported them: half a minute late, or later where
// the database was slow or failed.
func (s *Store) Failures(ctx context.Context, userID string) ([]Failure, error) {
	return sqldb.Read(ctx, s.db, "fleet.failures", func(tx *sqldb.Tx) ([]Failure, error) {
		var errors []struct {
			Cause    string     `db:"cause"`
			Code     string     `db:"code"`
			BeganAt  sqldb.Time `db:"began_at"`
			FailedAt sqldb.Time `db:"failed_at"`
			Requests int64      `db:"requests"`
		}
		if err := tx.Select(&errors, errorsQuery, userID, maxFailures); err != nil {
			return nil, err
		}
		var broken []struct {
			At        sqldb.Time `db:"at"`
			ModelID   string     `db:"model_id"`
			Provider  string     `db:"provider"`
			State     string     `db:"state"`
			Reason    string     `db:"reason"`
			LastError string     `db:"last_error"`
		}
		if err := tx.Select(&broken, brokenQuery, userID, maxFailures); err != nil {
			return nil, err
		}
		var providers []struct {
			Provider string     `db:"provider"`
			At       sqldb.Time `db:"failed_at"`
		}
		if err := tx.Select(&providers, providerQuery, userID, maxFailures); err != nil {
			return nil, err
		}
		list := []Failure{}
		for _, r := range errors {
			list = append(list, Failure{At: r.FailedAt.Time, Cause: r.Cause, Detail: r.Code, Requests: r.Requests, Since: r.BeganAt.Time})
		}
		for _, r := range broken {
			f := Failure{At: r.At.Time, Cause: "session", ModelID: r.ModelID, Provider: r.Provider, Detail: r.Reason}
			if r.State == sessionsql.StateFailed || r.State == sessionsql.StateLost {
				f.Cause = "open_failed"
			}
			if r.LastError != "" {
				f.Detail += ": " + r.LastError
			}
			list = append(list, f)
		}
		for _, r := range providers {
			list = append(list, Failure{At: r.At.Time, Cause: "provider", Provider: r.Provider})
		}
		sortByTime(list)
		return list, nil
	})
}

// EraseUser removes the errors that a user got.
func (s *Store) EraseUser(ctx context.Context, userID string) error {
	_, err := sqldb.Write(ctx, s.db, "fleet.erase", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM automation_user_failures WHERE user_id = $1`, userID)
	})
	return err
}
