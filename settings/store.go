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

// Store reads and changes settings, and keeps those that were read lately for the
// path of requests. It is safe for concurrent use. A call takes at most the
// database's time-out, 5 s, or twice that for a write that had to be repeated.
//
// The errors of all methods wrap [*InvalidError], [ErrConflict], [ErrUnavailable]
// or [ErrOutcomeUnknown], if any of these is the reason.
type Store struct {
	db       *sqldb.DB
	defaults Defaults
	cache    *cache
}

// StoreOptions of a Store. The zero value works.
type StoreOptions struct {
	// MaxConns is the most connections of the pool that are used at once; 0
	// means 4.
	MaxConns int
	// Observe, if set, is called after each use of the database with its name
	// ("settings.get"), how long it waited for a connection of the allowed
	// ones, how long it took in all, and its error.
	Observe func(name string, wait, took time.Duration, err error)
	// CacheSize is the most users whose settings are kept for GetCached, about
	// 220 bytes each; 0 means 100,000.
	CacheSize int
	// ReadTimeout is how long GetCached waits for the database; 0 means 1 s.
	ReadTimeout time.Duration
	Logger      *slog.Logger     // nil discards
	Now         func() time.Time // nil means time.Now

	timeout time.Duration // of a transaction, for tests on busy machines; 0 means sqldb's
}

// NewStore returns a store on the host's pool. Its error names everything that
// is wrong with the defaults; the database is not queried.
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

// Get returns what holds for a user, as the database has it now: what is stored,
// or the defaults.
func (s *Store) Get(ctx context.Context, user string) (Settings, error) {
	f, err := s.find(ctx, user)
	return f.Settings, err
}

// GetCached is Get for the path of requests. The package's comment says how old
// its answers can be; without [Store.Run] they are two seconds old at most, and
// cost a query as often. Callers who come together for one user cause one query,
// for which they wait ReadTimeout at most. While the database is away the answer
// is what was read within the last ten minutes, or an [ErrUnavailable]: never
// the defaults.
func (s *Store) GetCached(ctx context.Context, user string) (Settings, error) {
	return s.cache.get(ctx, user)
}

// Run keeps GetCached up to date until ctx ends: every second it asks what other
// replicas have changed. A poll that fails is logged once, and so is the first
// that succeeds again. While nobody has asked the database for a user for so long
// that nothing is used without a query, it does not poll.
func (s *Store) Run(ctx context.Context) { s.cache.run(ctx) }

// Put stores all values.
func (s *Store) Put(ctx context.Context, user string, v Values, c Condition) (Settings, error) {
	return s.change(ctx, "settings.put", user, Change{&v.IsEnabled, &v.SessionDuration}, c)
}

// Patch stores some values. Where nothing is stored yet, the defaults are
// stored with them; an empty change stores nothing.
func (s *Store) Patch(ctx context.Context, user string, ch Change, c Condition) (Settings, error) {
	const name = "settings.patch"
	if ch != (Change{}) {
		return s.change(ctx, name, user, ch, c)
	}
	now, err := s.Get(ctx, user)
	if err == nil && !c.allows(now.Version) {
		return Settings{}, fmt.Errorf("%s: %w", name, ErrConflict)
	}
	return now, err
}

func (s *Store) change(ctx context.Context, name, user string, ch Change, c Condition) (Settings, error) {
	defer s.cache.invalidate(user) // also after an error: it may have been applied
	if err := s.defaults.check(user, ch); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	isNew := s.defaults.forUser(user)
	var duration *int64
	if ch.SessionDuration != nil {
		isNew.SessionDuration = *ch.SessionDuration
		duration = new(seconds(*ch.SessionDuration))
	}
	if ch.IsEnabled != nil {
		isNew.IsEnabled = *ch.IsEnabled
	}
	f, err := write(ctx, s.db, name, c == Always, func(tx *sqldb.Tx) (record, error) {
		var r row
		var err error
		if c == Always || c == IfVersion(0) {
			err = tx.Get(&r, upsert, user, ch.IsEnabled, duration, isNew.IsEnabled, seconds(isNew.SessionDuration), c == Always)
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
	return f.Settings, err
}

// Delete returns a user to the defaults, and returns these. Where nothing is
// stored nothing happens, whatever the condition says.
func (s *Store) Delete(ctx context.Context, user string, c Condition) (Settings, error) {
	defer s.cache.invalidate(user)
	const name = "settings.delete"
	if err := checkUser(user); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	return write(ctx, s.db, name, true, func(tx *sqldb.Tx) (Settings, error) {
		n, err := tx.Exec(remove, user, c == Always, c.version())
		if err == nil && n == 0 && c != Always {
			var stored bool
			if err = tx.Get(&stored, isStored, user); err == nil && stored {
				err = ErrConflict
			}
		}
		return s.defaults.forUser(user), err
	})
}

// EraseUser removes everything that is stored of a user, for good. Call it when
// the user leaves. It is no error if there is nothing. Other replicas may use
// what they know for 30 seconds more, and hold it in memory for ten minutes.
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

// OptInCounts counts the users whose own settings have the feature on, and off.
// It reads the whole table, which takes about 0.1 s with a million users.
func (s *Store) OptInCounts(ctx context.Context) (on, off int64, err error) {
	type counts struct{ On, Off int64 }
	n, err := sqldb.Read(ctx, s.db, "settings.opt_ins", func(tx *sqldb.Tx) (n counts, err error) {
		return n, tx.Get(&n, optIns)
	})
	return n.On, n.Off, err
}

// write runs a write, and once more if its outcome is unknown and a second time
// does no harm. What is still unknown then stays so, whatever the second said.
func write[T any](ctx context.Context, db *sqldb.DB, name string, again bool, fn func(*sqldb.Tx) (T, error)) (T, error) {
	v, err := sqldb.Write(ctx, db, name, fn)
	if !again || !errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil {
		return v, err
	}
	v, second := sqldb.Write(ctx, db, name, fn)
	if second != nil {
		return v, fmt.Errorf("%w; once more: %s", err, second.Error())
	}
	return v, nil
}

// record is a user's settings, with the version of their row.
type record struct {
	Settings
	row rowVersion
}

// rowVersion identifies a state of a row, a deleted one included. The version
// alone would not: after EraseUser it begins again.
type rowVersion struct {
	version   int64
	updatedAt time.Time
}

func (v rowVersion) equal(o rowVersion) bool {
	return v.version == o.version && v.updatedAt.Equal(o.updatedAt)
}

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

// row holds the columns of a stored row.
type row struct {
	IsEnabled       bool                 `db:"is_enabled"`
	SessionDuration int64                `db:"session_duration"`
	Version         int64                `db:"version"`
	CreatedAt       sqldb.Time           `db:"created_at"`
	UpdatedAt       sqldb.Time           `db:"updated_at"`
	DeletedAt       sql.Null[sqldb.Time] `db:"deleted_at"`
}

// record returns what a row means to its user.
func (d Defaults) record(user string, r row) record {
	f := record{d.forUser(user), rowVersion{r.Version, r.UpdatedAt.Time}}
	if !r.DeletedAt.Valid {
		f.IsEnabled = r.IsEnabled
		// In seconds first: what a host stored may not fit a time.Duration.
		f.SessionDuration = time.Duration(min(max(r.SessionDuration, seconds(d.Min)), seconds(d.Max))) * time.Second
		f.Version, f.CreatedAt, f.UpdatedAt = r.Version, r.CreatedAt.Time, r.UpdatedAt.Time
	}
	return f
}
