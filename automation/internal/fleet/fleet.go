// Package fleet collects what operators look at first: how the feature works on
// all replicas together, which sessions were opened and why, why one user's
// requests failed, and which alerts' conditions are met.
package fleet

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store reads from the database. Every query is served by an index. Counts,
// which read many rows, are cached.
type Store struct {
	db     *sqldb.DB
	optIns func(context.Context) (on, off int64, err error)
	now    func() time.Time

	counting sync.Mutex // held while the counts are read from the database
	mu       sync.Mutex // guards counts
	counts   Counts
}

// NewStore returns a Store on the host's pool. It does no I/O. observe, unless
// nil, is called after each statement. optIns counts the users whose stored
// settings have automation on, and off.
func NewStore(pool *sqlx.DB, observe func(name string, wait, took time.Duration, err error), optIns func(context.Context) (on, off int64, err error), now func() time.Time) *Store {
	return &Store{db: sqldb.New(pool, sqldb.Options{MaxConns: 1, Observe: observe}), optIns: optIns, now: now}
}

// Counts are numbers that change slowly and are expensive to count.
type Counts struct {
	At         time.Time // when they were read
	OptedIn    int64     // users whose stored settings have automation on
	OptedOut   int64     // users whose stored settings have automation off
	ActiveWeek int64     // users for whom a session was opened in the last seven days
}

// countsMaxAge is how long counts are cached.
const countsMaxAge = time.Minute

// Counts returns the counts, at most a minute old. While one caller reads new
// ones from the database, the others get the old ones.
func (s *Store) Counts(ctx context.Context) (Counts, error) {
	if c := s.cached(); s.isFresh(c) {
		return c, nil
	}
	if !s.counting.TryLock() {
		if c := s.cached(); !c.At.IsZero() {
			return c, nil
		}
		s.counting.Lock() // there are no old ones
	}
	defer s.counting.Unlock()
	if c := s.cached(); s.isFresh(c) {
		return c, nil // another caller has just read them
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

func (s *Store) cached() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

func (s *Store) isFresh(c Counts) bool { return !c.At.IsZero() && s.now().Sub(c.At) < countsMaxAge }

// Lists of states, and of the reasons of an intent that ended before the node was
// asked, for IN (…).
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

// Opens counts the intents to open a session of the last hour, for one purpose:
// request, renewal, prewarm or replacement.
type Opens struct {
	Purpose string `json:"purpose" db:"purpose"`
	Opened  int64  `json:"opened" db:"opened"`
	Failed  int64  `json:"failed" db:"failed"`   // the node opened nothing, or the session was never found
	Pending int64  `json:"pending" db:"pending"` // being opened, or being looked for in the wallet
	// RecentOpened and RecentFailed are those of the last half hour.
	RecentOpened int64 `json:"-" db:"recent_opened"`
	RecentFailed int64 `json:"-" db:"recent_failed"`
}

// Figures are counts that are cheap enough to be read for each request.
type Figures struct {
	Opens       []Opens
	FlagChanges int64     // changes of the flag within the last hour
	Orphans     int64     // opens that may have been paid: their result is unknown after 15 minutes
	CleanedAt   time.Time // when the last clean-up finished; zero if none has
}

// An intent that ended before the node was asked is neither opened nor failed.
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

// Figures reads the figures. flag is the name of the flag whose changes count.
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

// Failure is a failure that the database has recorded for a user. It contains
// nothing of what the user sent.
type Failure struct {
	At       time.Time `json:"at"`    // of the last request, if it stands for several
	Cause    string    `json:"cause"` // open_failed, or a cause of package outcome
	ModelID  string    `json:"-"`
	Model    string    `json:"model"` // the model's name, which the Store leaves empty
	Provider string    `json:"provider"`
	Detail   string    `json:"detail"` // the reason, or the code that the user got
	// Requests is how many requests failed alike since Since; 0 if they are not
	// counted.
	Requests int64     `json:"requests"`
	Since    time.Time `json:"since,omitzero"`
}

// maxFailures bounds the failures that are returned of each of three kinds.
const maxFailures = 20

// The three kinds of failures: errors that the user got; sessions that could not
// be opened or have broken; and providers that failed for the user.
const (
	errorsQuery = `SELECT cause, code, began_at, failed_at, requests FROM automation_user_failures WHERE user_id = $1 ORDER BY failed_at DESC LIMIT $2`
	brokenQuery = `SELECT COALESCE(closed_at, created_at) AS at, model_id, provider, state, reason, last_error FROM automation_sessions
		WHERE user_id = $1 AND user_id <> '' AND (state IN (` + notOpened + `) AND reason NOT IN (` + notAsked + `) OR reason IN ('` + sessionsql.ReasonExpired + `', '` + sessionsql.ReasonMismatch + `'))
		ORDER BY created_at DESC LIMIT $2`
	providerQuery = `SELECT provider, failed_at FROM automation_provider_failures WHERE user_id = $1 ORDER BY failed_at DESC LIMIT $2`
)

// Failures returns what lately failed for a user, the latest first. Replicas
// report the errors half a minute late, or later if the database is slow or fails.
func (s *Store) Failures(ctx context.Context, userID string) ([]Failure, error) {
	return sqldb.Read(ctx, s.db, "fleet.failures", func(tx *sqldb.Tx) ([]Failure, error) {
		var userErrors []struct {
			Cause    string     `db:"cause"`
			Code     string     `db:"code"`
			BeganAt  sqldb.Time `db:"began_at"`
			FailedAt sqldb.Time `db:"failed_at"`
			Requests int64      `db:"requests"`
		}
		if err := tx.Select(&userErrors, errorsQuery, userID, maxFailures); err != nil {
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
		for _, r := range userErrors {
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
		slices.SortStableFunc(list, func(a, b Failure) int { return b.At.Compare(a.At) }) // the latest first
		return list, nil
	})
}

// EraseUser deletes the errors that a user got.
func (s *Store) EraseUser(ctx context.Context, userID string) error {
	_, err := sqldb.Write(ctx, s.db, "fleet.erase", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM automation_user_failures WHERE user_id = $1`, userID)
	})
	return err
}
