package settings

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store reads and changes settings, and caches recently read ones for the path of
// requests. It is safe for concurrent use. A call takes at most 5 s, the time-out
// of a transaction, or twice that for a write that is repeated.
//
// The errors of all methods wrap [*InvalidError], [ErrConflict], [ErrUnavailable]
// or [ErrOutcomeUnknown], if one of these is the cause.
type Store struct {
	db       *sqldb.DB
	defaults Defaults
	cache    *cache
}

// StoreOptions of a Store. The zero value works.
type StoreOptions struct {
	// MaxConns limits how many connections of the pool the store uses at once;
	// 0 means 4.
	MaxConns int
	// Observe, if set, is called after each use of the database. Its name is as
	// in "settings.get", wait is how long it waited for one of the MaxConns
	// connections, and took is how long it took including that wait.
	Observe func(name string, wait, took time.Duration, err error)
	// CacheSize limits how many users' settings GetCached keeps, of about 220
	// bytes each; 0 means 100,000.
	CacheSize int
	// ReadTimeout is how long GetCached waits for the database; 0 means 1 s.
	ReadTimeout time.Duration
	Logger      *slog.Logger     // nil discards
	Now         func() time.Time // nil means time.Now

	timeout time.Duration // of a transaction, for tests on busy machines; 0 means that of sqldb
}

// NewStore returns a store on the host's pool. It does not query the database. The
// error names every invalid field of the defaults.
func NewStore(pool *sqlx.DB, d Defaults, o StoreOptions) (*Store, error) {
	d, err := d.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("settings: defaults: %w", err)
	}
	o = o.withDefaults()
	s := &Store{db: sqldb.New(pool, sqldb.Options{MaxConns: o.MaxConns, Observe: o.Observe, Timeout: o.timeout}), defaults: d}
	s.cache = newCache(s, o)
	return s, nil
}

func (o StoreOptions) withDefaults() StoreOptions {
	if o.MaxConns <= 0 {
		o.MaxConns = 4
	}
	if o.CacheSize <= 0 {
		o.CacheSize = 100_000
	}
	if o.ReadTimeout <= 0 {
		o.ReadTimeout = readTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Get reads a user's settings from the database: the stored ones, or the defaults.
func (s *Store) Get(ctx context.Context, user string) (Settings, error) {
	rec, err := s.find(ctx, user)
	return rec.Settings, err
}

// GetCached is Get for the path of requests. The package's comment says how old
// its result can be; without [Store.Run] it is at most two seconds old, and each
// user costs a query as often. Concurrent calls for one user share one query, for
// which they wait ReadTimeout at most. While the database is unavailable, the
// result is what was read within the last ten minutes, or [ErrUnavailable], but
// never the defaults.
func (s *Store) GetCached(ctx context.Context, user string) (Settings, error) {
	return s.cache.get(ctx, user)
}

// Run keeps the cache of GetCached up to date until ctx ends: every second it
// polls for changes by other replicas. It does not poll while every entry is too
// old to be used. It logs the first poll that fails, and the first that succeeds
// again.
func (s *Store) Run(ctx context.Context) { s.cache.run(ctx) }

// Put stores all values, and returns the settings as stored.
func (s *Store) Put(ctx context.Context, user string, v Values, c Condition) (Settings, error) {
	return s.change(ctx, "settings.put", user, Change{&v.IsEnabled, &v.SessionDuration}, c)
}

// Patch stores some values, and returns the settings as stored. If nothing is
// stored yet, the defaults are stored for the other values. An empty change
// stores nothing.
func (s *Store) Patch(ctx context.Context, user string, ch Change, c Condition) (Settings, error) {
	const name = "settings.patch"
	if ch != (Change{}) {
		return s.change(ctx, name, user, ch, c)
	}
	current, err := s.Get(ctx, user)
	if err == nil && !c.allows(current.Version) {
		return Settings{}, fmt.Errorf("%s: %w", name, ErrConflict)
	}
	return current, err
}

func (s *Store) change(ctx context.Context, name, user string, ch Change, c Condition) (Settings, error) {
	defer s.cache.invalidate(user) // also after an error: the change may have been applied
	if err := s.defaults.check(user, ch); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	initial := s.defaults.forUser(user) // if nothing is stored
	var duration *int64
	if ch.SessionDuration != nil {
		initial.SessionDuration = *ch.SessionDuration
		duration = new(seconds(*ch.SessionDuration))
	}
	if ch.IsEnabled != nil {
		initial.IsEnabled = *ch.IsEnabled
	}
	rec, err := write(ctx, s.db, name, c == Always, func(tx *sqldb.Tx) (record, error) {
		var r row
		var err error
		if c == Always || c == IfVersion(0) {
			err = tx.Get(&r, upsert, user, ch.IsEnabled, duration, initial.IsEnabled, seconds(initial.SessionDuration), c == Always)
		} else {
			err = tx.Get(&r, update, user, ch.IsEnabled, duration, c.version())
		}
		if ok, err := sqldb.Optional(err); err != nil {
			return record{}, err
		} else if !ok {
			return record{}, ErrConflict
		}
		return s.defaults.record(user, r), nil
	})
	return rec.Settings, err
}

// Delete removes the user's settings, and returns the defaults. If nothing is
// stored, it does nothing and returns no error, whatever the condition.
func (s *Store) Delete(ctx context.Context, user string, c Condition) (Settings, error) {
	defer s.cache.invalidate(user)
	const name = "settings.delete"
	if err := checkUser(user); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	return write(ctx, s.db, name, true, func(tx *sqldb.Tx) (Settings, error) {
		n, err := tx.Exec(remove, user, c == Always, c.version())
		if err == nil && n == 0 && c != Always {
			var exists bool
			if err = tx.Get(&exists, isStored, user); err == nil && exists {
				err = ErrConflict // another version is stored
			}
		}
		return s.defaults.forUser(user), err
	})
}

// EraseUser permanently removes everything that is stored about a user. Call it
// when the user leaves. If nothing is stored, it returns no error. Other replicas
// may use the user's cached settings for 30 seconds more, and hold them in memory
// for ten minutes.
func (s *Store) EraseUser(ctx context.Context, user string) error {
	defer s.cache.invalidate(user)
	const name = "settings.erase_user"
	if err := checkUser(user); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err := write(ctx, s.db, name, true, func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM user_automation_settings WHERE {text user_id} = $1`, user)
	})
	return err
}

// OptInCounts counts the users whose stored settings have the feature on, and
// those whose have it off. It reads the whole table, which takes about 0.1 s with
// a million users.
func (s *Store) OptInCounts(ctx context.Context) (on, off int64, err error) {
	type counts struct{ On, Off int64 }
	n, err := sqldb.Read(ctx, s.db, "settings.opt_ins", func(tx *sqldb.Tx) (n counts, err error) {
		return n, tx.Get(&n, optIns)
	})
	return n.On, n.Off, err
}

// write runs a write. If its outcome is unknown and the write is repeatable, it
// runs it once more. If that fails, the error is ErrOutcomeUnknown still, because
// the first write may have been applied.
func write[T any](ctx context.Context, db *sqldb.DB, name string, isRepeatable bool, fn func(*sqldb.Tx) (T, error)) (T, error) {
	v, err := sqldb.Write(ctx, db, name, fn)
	if !isRepeatable || !errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil {
		return v, err
	}
	v, repeatErr := sqldb.Write(ctx, db, name, fn)
	if repeatErr != nil {
		return v, fmt.Errorf("%w; repeated: %s", err, repeatErr.Error()) // wraps only the first
	}
	return v, nil
}

// record is a user's settings and the version of the row.
type record struct {
	Settings
	row rowVersion
}

// rowVersion identifies a state of a row, which may be marked as deleted. The
// version alone does not: after EraseUser it starts at 1 again.
type rowVersion struct {
	version   int64
	updatedAt time.Time
}

func (v rowVersion) equal(o rowVersion) bool {
	return v.version == o.version && v.updatedAt.Equal(o.updatedAt)
}

// find reads a user's settings from the database.
func (s *Store) find(ctx context.Context, user string) (record, error) {
	const name = "settings.get"
	if err := checkUser(user); err != nil {
		return record{}, fmt.Errorf("%s: %w", name, err)
	}
	rows, err := sqldb.Select[row](ctx, s.db, name, get, user)
	switch {
	case err != nil:
		return record{}, err
	case len(rows) == 0:
		return record{Settings: s.defaults.forUser(user)}, nil
	}
	return s.defaults.record(user, rows[0]), nil
}

// row is a stored row.
type row struct {
	IsEnabled       bool                 `db:"is_enabled"`
	SessionDuration int64                `db:"session_duration"`
	Version         int64                `db:"version"`
	CreatedAt       sqldb.Time           `db:"created_at"`
	UpdatedAt       sqldb.Time           `db:"updated_at"`
	DeletedAt       sql.Null[sqldb.Time] `db:"deleted_at"`
}

// record returns the settings that a row stores: the defaults if it is marked as
// deleted.
func (d Defaults) record(user string, r row) record {
	rec := record{d.forUser(user), rowVersion{r.Version, r.UpdatedAt.Time}}
	if !r.DeletedAt.Valid {
		rec.IsEnabled = r.IsEnabled
		// Clamped in seconds: the host may have stored more than fits a time.Duration.
		rec.SessionDuration = time.Duration(min(max(r.SessionDuration, seconds(d.Min)), seconds(d.Max))) * time.Second
		rec.Version, rec.CreatedAt, rec.UpdatedAt = r.Version, r.CreatedAt.Time, r.UpdatedAt.Time
	}
	return rec
}
