package flags

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store is the table feature_flags in PostgreSQL or SQLite, with its audit.
type Store struct{ db *sqldb.DB }

// NewStore is a store on the host's pool, of which it uses at most 4
// connections at once; no call takes longer than 5 s.
func NewStore(pool *sqlx.DB) *Store { return NewStoreOn(sqldb.New(pool, sqldb.Options{MaxConns: 4})) }

// NewStoreOn is NewStore with the bounds that this module's other packages
// share. Hosts use NewStore.
func NewStoreOn(db *sqldb.DB) *Store { return &Store{db} }

// Stamp tells one state of a flag's row from another, and nothing else.
type Stamp string

// Loaded is what Load found.
type Loaded struct {
	Stamps map[string]Stamp // of every row there is, by name
	// Flags are new or changed; each has its place in Stamps.
	Flags []*Flag
	// Bad are rows, new or changed, that cannot be read. One that is certainly
	// not enabled is in Flags nevertheless, so that switching off always works.
	Bad []*RowError
}

// Load reads the flags whose stamps are not those in known; with nil, all, in
// one statement. A row that cannot be read harms only itself.
func (s *Store) Load(ctx context.Context, known map[string]Stamp) (Loaded, error) {
	type found struct {
		unchanged map[string]Stamp
		rows      []row
	}
	all, err := sqldb.Read(ctx, s.db, "flags.load", func(tx *sqldb.Tx) (found, error) {
		unchanged := map[string]Stamp{}
		var rows []row
		if len(known) == 0 {
			err := tx.Select(&rows, `SELECT `+columns+` FROM feature_flags WHERE feature_name IS NOT NULL ORDER BY feature_name`)
			return found{unchanged, rows}, err
		}
		// A list may be megabytes: only what has changed is read whole.
		if err := tx.Select(&rows, `SELECT feature_name, version, updated_at FROM feature_flags WHERE feature_name IS NOT NULL`); err != nil {
			return found{}, err
		}
		var changed []string
		for _, r := range rows {
			if stamp := r.stamp(); known[r.Name] == stamp {
				unchanged[r.Name] = stamp
			} else {
				changed = append(changed, r.Name)
			}
		}
		rows = nil
		if len(changed) == 0 {
			return found{unchanged, nil}, nil
		}
		names, err := json.Marshal(changed)
		if err != nil {
			return found{}, err
		}
		err = tx.Select(&rows, `SELECT `+columns+` FROM feature_flags WHERE feature_name IN {each $1} ORDER BY feature_name`, string(names))
		return found{unchanged, rows}, err
	})
	if err != nil {
		return Loaded{}, fmt.Errorf("flags: load: %w", err)
	}
	// Not within the transaction: a million ids take a while.
	l := Loaded{Stamps: all.unchanged}
	for _, r := range all.rows {
		l.Stamps[r.Name] = r.stamp()
		f, err := r.flag()
		if f != nil {
			l.Flags = append(l.Flags, f)
		}
		if bad, ok := errors.AsType[*RowError](err); ok {
			l.Bad = append(l.Bad, bad)
		}
	}
	return l, nil
}

// Get reads one flag. The errors are ErrNotFound, a *RowError, or the database's.
func (s *Store) Get(ctx context.Context, name string) (*Flag, error) {
	r, err := sqldb.Read(ctx, s.db, "flags.get", func(tx *sqldb.Tx) (row, error) { return get(tx, name) })
	if err != nil {
		return nil, fmt.Errorf("flags: get(%q): %w", name, err)
	}
	return r.certain()
}

func get(tx *sqldb.Tx, name string) (row, error) {
	var r row
	found, err := sqldb.Optional(tx.Get(&r, `SELECT `+columns+` FROM feature_flags WHERE feature_name = $1`, name))
	if err == nil && !found {
		err = ErrNotFound
	}
	return r, err
}
