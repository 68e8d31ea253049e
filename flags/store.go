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
	// MaxConns limits how many connections of the pool the store uses at once;
	// 0 means 4.
	MaxConns int
	// Observe, if set, is called after each use of the database. Its name is as
	// in "flags.load", wait is how long it waited for one of the MaxConns
	// connections, and took is how long it took including that wait.
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

// LoadResult is what Load returns.
type LoadResult struct {
	Versions map[string]RowVersion // of all existing rows, by name
	Flags    []*Flag               // new or changed
	// Bad are the new or changed rows that cannot be read. If such a row
	// certainly has enabled = false, its flag is in Flags as well: switching
	// off must always work.
	Bad []*RowError
}

// Load reads the flags whose row versions differ from those in known; if known
// is empty, it reads all flags. A row that cannot be read affects no other. If
// nothing has changed, Load is one statement without a transaction, because
// every replica calls it at every poll.
//
// If the table lacks a column, Load reads the other columns: a flag whose row
// has enabled = false must be off.
func (s *Store) Load(ctx context.Context, known map[string]RowVersion) (LoadResult, error) {
	var isChanged func(flagsql.Row) bool
	if len(known) > 0 {
		isChanged = func(r flagsql.Row) bool { return known[r.Name] != RowVersion(r.VersionText()) }
	}
	all, err := s.load(ctx, isChanged)
	if err != nil && mayLackColumns(s.db, err) {
		if rest, restErr := sqldb.Read(ctx, s.db, "flags.load", flagsql.LoadExistingColumns); restErr == nil {
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

// load is flagsql.Load, without a transaction if no row is changed.
func (s *Store) load(ctx context.Context, isChanged func(flagsql.Row) bool) (flagsql.Loaded, error) {
	if isChanged != nil {
		rows, err := sqldb.Look[flagsql.Row](ctx, s.db, "flags.load", flagsql.Versions)
		if err != nil || !slices.ContainsFunc(rows, isChanged) {
			return flagsql.Loaded{Unchanged: rows}, err
		}
	}
	return sqldb.Read(ctx, s.db, "flags.load", func(tx *sqldb.Tx) (flagsql.Loaded, error) { return flagsql.Load(tx, isChanged) })
}

// mayLackColumns reports whether a missing column may be the cause of err.
// SQLite has no error code for that.
func mayLackColumns(db *sqldb.DB, err error) bool {
	if db.SQLite() {
		return !errors.Is(err, ErrUnavailable)
	}
	const undefinedColumn = "42703"
	return sqldb.SQLState(err) == undefinedColumn
}

// Get reads one flag. The error is ErrNotFound, a *RowError, or one of the
// database.
func (s *Store) Get(ctx context.Context, name string) (*Flag, error) {
	r, err := sqldb.Read(ctx, s.db, "flags.get", func(tx *sqldb.Tx) (flagsql.Row, error) { return flagsql.Get(tx, name) })
	if err != nil {
		return nil, fmt.Errorf("flags: get(%q): %w", name, err)
	}
	return parseRowStrictly(r)
}
