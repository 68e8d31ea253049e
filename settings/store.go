package settings

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store reads and writes settings in the database. It is safe for concurrent
// use and holds nothing; a call takes at most the database's time-out, 5 s, or
// twice that for a write that had to be repeated.
//
// The errors of all methods wrap [ErrInvalid], [ErrConflict], [ErrUnavailable]
// or [ErrOutcomeUnknown], if any of these is the reason.
type Store struct {
	db       *sqldb.DB
	defaults Defaults
}

// NewStore works on the host's pool. Its error names all that is wrong with the
// defaults; the database is not asked.
func NewStore(pool *sqlx.DB, d Defaults) (*Store, error) {
	return NewStoreOn(sqldb.New(pool, sqldb.Options{}), d)
}

// NewStoreOn is [NewStore] for the module's own packages, whose stores share
// one bound on the connections they take from the pool.
func NewStoreOn(db *sqldb.DB, d Defaults) (*Store, error) {
	d, err := d.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("settings: defaults: %w", err)
	}
	return &Store{db: db, defaults: d}, nil
}

// Defaults are those in use, complete.
func (s *Store) Defaults() Defaults { return s.defaults }

// Get returns what holds for a user: what is stored, or the defaults.
func (s *Store) Get(ctx context.Context, user string) (Settings, error) {
	f, err := s.find(ctx, user)
	return f.Settings, err
}

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
	if err := s.defaults.check(user, ch); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	isNew := s.defaults.of(user)
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

// Delete takes a user back to the defaults, which it returns. Where nothing is
// stored that is so already, whatever the condition says, and nothing happens.
func (s *Store) Delete(ctx context.Context, user string, c Condition) (Settings, error) {
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
		return s.defaults.of(user), err
	})
}

// Forget erases all there is of a user, for good. Call it when the user goes.
// It is no error if there is nothing.
func (s *Store) Forget(ctx context.Context, user string) error {
	const name = "settings.forget"
	if err := checkUser(user); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	_, err := write(ctx, s.db, name, true, func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM user_automation_settings WHERE {text user_id} = $1`, user)
	})
	return err
}

// Adopters counts the users who have the feature switched on, and all who have
// settings stored. It is for reports: it reads the whole table, which takes
// about 0.1 s with a million users.
func (s *Store) Adopters(ctx context.Context) (enabled, stored int64, err error) {
	type counts struct{ Enabled, Stored int64 }
	n, err := sqldb.Read(ctx, s.db, "settings.adopters", func(tx *sqldb.Tx) (n counts, err error) {
		return n, tx.Get(&n, adopters)
	})
	return n.Enabled, n.Stored, err
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

// record is a user's settings, with what tells one state of the row from another.
type record struct {
	Settings
	mark mark
}

// mark identifies a state of a row, a deleted one included. The version alone
// would not: after Forget it begins again.
type mark struct {
	version   int64
	updatedAt time.Time
}

func (s *Store) find(ctx context.Context, user string) (record, error) {
	const name = "settings.get"
	if err := checkUser(user); err != nil {
		return record{}, fmt.Errorf("%s: %w", name, err)
	}
	return sqldb.Read(ctx, s.db, name, func(tx *sqldb.Tx) (record, error) {
		var r row
		if ok, err := sqldb.Optional(tx.Get(&r, get, user)); err != nil || !ok {
			return record{Settings: s.defaults.of(user)}, err
		}
		return s.defaults.record(user, r), nil
	})
}

// row is a stored row, see columns.
type row struct {
	IsEnabled       bool                 `db:"is_enabled"`
	SessionDuration int64                `db:"session_duration"`
	Version         int64                `db:"version"`
	CreatedAt       sqldb.Time           `db:"created_at"`
	UpdatedAt       sqldb.Time           `db:"updated_at"`
	DeletedAt       sql.Null[sqldb.Time] `db:"deleted_at"`
}

// record is what a row means to its user.
func (d Defaults) record(user string, r row) record {
	f := record{d.of(user), mark{r.Version, r.UpdatedAt.Time}}
	if !r.DeletedAt.Valid {
		f.IsEnabled = r.IsEnabled
		// In seconds first: what a host stored may not fit a time.Duration.
		f.SessionDuration = time.Duration(min(max(r.SessionDuration, seconds(d.Min)), seconds(d.Max))) * time.Second
		f.Version, f.CreatedAt, f.UpdatedAt = r.Version, r.CreatedAt.Time, r.UpdatedAt.Time
	}
	return f
}
