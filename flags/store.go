package flags

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// StoreOptions of a Store. The zero value works.
type StoreOptions struct {
	// MaxConns is the most connections of the pool that are used at once; 0
	// means 4.
	MaxConns int
	// Observe, if set, is called after each use of the database with its name
	// ("flags.load"), how long it waited for a connection of the allowed ones,
	// how long it took in all, and its error.
	Observe func(name string, wait, took time.Duration, err error)
}

// Store reads and changes the table feature_flags in PostgreSQL or SQLite. No
// call takes longer than 5 s.
type Store struct{ db *sqldb.DB }

// NewStore returns a store on the host's pool.
func NewStore(pool *sqlx.DB, o StoreOptions) *Store {
	if o.MaxConns <= 0 {
		o.MaxConns = 4
	}
	return &Store{sqldb.New(pool, sqldb.Options{MaxConns: o.MaxConns, Observe: o.Observe})}
}

// RowVersion identifies one state of a flag's row. Compare it for equality only.
type RowVersion string

// LoadResult is what Load found.
type LoadResult struct {
	Versions map[string]RowVersion // of every row there is, by name
	// Flags are new or changed; each has its version in Versions.
	Flags []*Flag
	// Bad are rows, new or changed, that cannot be read. One that certainly is
	// not enabled is in Flags nevertheless, so that switching off always works.
	Bad []*RowError
}

// Load reads the flags whose versions are not those in known; with nil, all, in
// one statement. A row that cannot be read harms only itself. Where nothing has
// changed, it is one statement without a transaction: every replica asks all the
// time.
//
// A table that lost a column is read all the same: a flag that says that it is
// not enabled must be off.
func (s *Store) Load(ctx context.Context, known map[string]RowVersion) (LoadResult, error) {
	var unchanged func(flagsql.Row) bool
	if len(known) > 0 {
		unchanged = func(r flagsql.Row) bool { return known[r.Name] == RowVersion(r.VersionText()) }
	}
	all, err := s.load(ctx, unchanged)
	if err != nil && mayLackColumns(s.db, err) {
		if rest, restErr := sqldb.Read(ctx, s.db, "flags.load", flagsql.LoadWhatIsThere); restErr == nil {
			all, err = rest, nil
		}
	}
	if err != nil {
		return LoadResult{}, fmt.Errorf("flags: load: %w", err)
	}
	l := LoadResult{Versions: map[string]RowVersion{}}
	for _, r := range all.Unchanged {
		l.Versions[r.Name] = RowVersion(r.VersionText())
	}
	for _, r := range all.Rows {
		l.Versions[r.Name] = RowVersion(r.VersionText())
		f, err := parseRow(&r)
		if f != nil {
			l.Flags = append(l.Flags, f)
		}
		if bad, ok := errors.AsType[*RowError](err); ok {
			l.Bad = append(l.Bad, bad)
		}
	}
	return l, nil
}

func (s *Store) load(ctx context.Context, unchanged func(flagsql.Row) bool) (flagsql.Loaded, error) {
	if unchanged != nil {
		rows, err := sqldb.Look[flagsql.Row](ctx, s.db, "flags.load", flagsql.Versions)
		if err != nil || !slices.ContainsFunc(rows, func(r flagsql.Row) bool { return !unchanged(r) }) {
			return flagsql.Loaded{Unchanged: rows}, err
		}
	}
	return sqldb.Read(ctx, s.db, "flags.load", func(tx *sqldb.Tx) (flagsql.Loaded, error) { return flagsql.Load(tx, unchanged) })
}

// mayLackColumns reports whether an error may be that of a column that the
// table does not have; SQLite has no code of its own for it.
func mayLackColumns(db *sqldb.DB, err error) bool {
	const undefinedColumn = "42703"
	return sqldb.SQLState(err) == undefinedColumn || db.SQLite() && !errors.Is(err, ErrUnavailable)
}

// Get reads one flag. The errors are ErrNotFound, a *RowError, or the database's.
func (s *Store) Get(ctx context.Context, name string) (*Flag, error) {
	r, err := sqldb.Read(ctx, s.db, "flags.get", func(tx *sqldb.Tx) (flagsql.Row, error) { return flagsql.Get(tx, name) })
	if err != nil {
		return nil, fmt.Errorf("flags: get(%q): %w", name, err)
	}
	return parseRowStrictly(r)
}
