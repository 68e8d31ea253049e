// Package schema creates the module's tables in a database, checks and removes
// them.
//
// The migrations are plain SQL files, so any migration tool can apply them as
// well. [Migrate] runs each in a transaction of its own under one lock: ten
// replicas may call it at once at their start, and one killed in the middle
// leaves nothing half done.
//
//	applied, err := schema.Migrate(ctx, db)
//
// On PostgreSQL a table feature_flags or user_automation_settings that the host
// has already is adopted with its data, and given back by [Down].
package schema

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// ErrNewer says that the database has migrations that this binary does not
// know, which is fine to run on (they only add) but not to migrate down from.
var ErrNewer = errors.New("the database is newer than this program")

// ErrUnavailable says that the database could not be used; nothing was changed.
var ErrUnavailable = sqldb.ErrUnavailable

// Migration is one step of the schema.
type Migration struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at"` // zero: not applied
}

const (
	// timeout bounds one migration, waiting for another replica's included, and
	// a look at the whole schema: no request waits for either.
	timeout = 2 * time.Minute
	// lockTimeout bounds how long a migration waits for a table that others
	// use: whoever comes after it waits as well.
	lockTimeout = "5s"
)

// Migrate applies the migrations that are missing, in order, and returns what it
// applied. Where all are recorded but objects of theirs are gone, as after
// another tool's way back or a restored backup, it applies all of them again,
// which changes nothing that exists. [MakePlan] reports beforehand what it would do.
//
// It is safe to call from many processes at once and at every start: where
// nothing is missing it only reads. Each migration takes at most two minutes,
// waiting for another process included, and waits at most five seconds for a
// table.
func Migrate(ctx context.Context, pool *sqlx.DB) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	list, err := status(ctx, db)
	var applied []Migration
	for _, m := range list {
		if err != nil {
			break
		}
		if !m.AppliedAt.IsZero() {
			continue
		}
		var did bool
		did, err = step(ctx, db, "schema.migrate", func(tx *sqldb.Tx, have map[int]Migration) (bool, error) {
			if is, ok := have[m.Version]; ok {
				m = is
				return false, nil
			}
			if err := run(tx, m, "up"); err != nil {
				return false, err
			}
			recorded, err := readApplied(tx)
			if _, ok := recorded[m.Version]; !ok && err == nil {
				err = fmt.Errorf("%s does not record itself in automation_schema_migrations", m.file(tx.SQLite(), "up"))
			}
			m = recorded[m.Version]
			return true, err
		})
		if did {
			applied = append(applied, m)
		}
	}
	// A migration may fail because something of an older one is gone.
	incomplete := err != nil && slices.ContainsFunc(list, func(m Migration) bool { return !m.AppliedAt.IsZero() }) &&
		!errors.Is(err, ErrUnavailable) && !errors.Is(err, sqldb.ErrOutcomeUnknown)
	if err == nil || incomplete {
		repaired, failed := repair(ctx, db, incomplete)
		if repaired != nil {
			applied, err = repaired, nil
		}
		err = cmp.Or(err, failed)
	}
	if err != nil {
		return applied, fmt.Errorf("schema: migrate: %w", hint(ctx, db, err))
	}
	return applied, nil
}

// Down takes back the last steps migrations, the newest first, and returns
// what it took back. It deletes the data of the module's own tables; a table
// that was adopted stays, as it was. Nothing is taken back of a migration that
// this program does not know: ErrNewer.
func Down(ctx context.Context, pool *sqlx.DB, steps int) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	list, err := status(ctx, db)
	ours := embedded(db.SQLite())
	var undone []Migration
	for _, m := range slices.Backward(list) {
		if err != nil || steps <= 0 {
			break
		}
		if m.AppliedAt.IsZero() {
			continue
		}
		steps--
		var did bool
		did, err = step(ctx, db, "schema.down", func(tx *sqldb.Tx, have map[int]Migration) (bool, error) {
			if _, ok := have[m.Version]; !ok {
				return false, nil
			}
			newest := slices.Max(slices.Collect(maps.Keys(have)))
			if newest != m.Version || !slices.ContainsFunc(ours, func(o Migration) bool { return o.Version == m.Version }) {
				return false, fmt.Errorf("%w: migration %d is not among ours; take it back with the program that applied it", ErrNewer, newest)
			}
			return true, run(tx, m, "down")
		})
		if did {
			m.AppliedAt = time.Time{}
			undone = append(undone, m)
		}
	}
	if err != nil {
		return undone, fmt.Errorf("schema: down: %w", hint(ctx, db, err))
	}
	return undone, nil
}

// step runs one migration under the lock of all migrations, and reports whether
// it changed something. have lists what is applied, so running a step again
// after a COMMIT whose answer was lost does no harm.
func step(ctx context.Context, db *sqldb.DB, name string, do func(tx *sqldb.Tx, have map[int]Migration) (bool, error)) (did bool, err error) {
	inDoubt := false
	for range 3 {
		did, err = sqldb.Write(ctx, db, name, func(tx *sqldb.Tx) (bool, error) {
			if err := tx.Lock("schema"); err != nil {
				return false, fmt.Errorf("another process is migrating: %w", err)
			}
			if !tx.SQLite() {
				if err := tx.Script(`SELECT set_config('lock_timeout', '` + lockTimeout + `', true)`); err != nil {
					return false, err
				}
			}
			have, err := readApplied(tx)
			if err != nil {
				return false, err
			}
			return do(tx, have)
		})
		if !errors.Is(err, sqldb.ErrOutcomeUnknown) {
			break
		}
		inDoubt = true
	}
	return err == nil && (did || inDoubt), err
}

// Status lists all migrations that this program or the database knows, oldest
// first. It changes nothing.
func Status(ctx context.Context, pool *sqlx.DB) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	list, err := status(ctx, db)
	if err != nil {
		return nil, fmt.Errorf("schema: status: %w", hint(ctx, db, err))
	}
	return list, nil
}

func status(ctx context.Context, db *sqldb.DB) ([]Migration, error) {
	have, err := sqldb.Read(ctx, db, "schema.status", readApplied)
	if err != nil {
		return nil, err
	}
	all := make(map[int]Migration)
	for _, m := range embedded(db.SQLite()) {
		all[m.Version] = m
	}
	maps.Copy(all, have)
	list := make([]Migration, 0, len(all))
	for _, v := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[v])
	}
	return list, nil
}

// readApplied returns the migrations that are recorded as applied.
func readApplied(tx *sqldb.Tx) (map[int]Migration, error) {
	exists := `SELECT count(*) FROM pg_class WHERE oid = to_regclass('automation_schema_migrations')`
	if tx.SQLite() {
		exists = `SELECT count(*) FROM sqlite_master WHERE name = 'automation_schema_migrations'`
	}
	var n int
	if err := tx.Get(&n, exists); err != nil || n == 0 {
		return nil, err
	}
	var rows []struct {
		Version   int        `db:"version"`
		Name      string     `db:"name"`
		AppliedAt sqldb.Time `db:"applied_at"`
	}
	if err := tx.Select(&rows, `SELECT version, name, applied_at FROM automation_schema_migrations`); err != nil {
		return nil, err
	}
	have := make(map[int]Migration, len(rows))
	for _, r := range rows {
		have[r.Version] = Migration{Version: r.Version, Name: r.Name, AppliedAt: r.AppliedAt.Time}
	}
	return have, nil
}

// hint adds to an error what an operator can do about it.
func hint(ctx context.Context, db *sqldb.DB, err error) error {
	const ask = `SELECT quote_ident(current_user) AS role, quote_ident(coalesce(current_schema(), 'public')) AS schema`
	switch sqldb.SQLState(err) {
	case "42501", "3F000": // no privilege, no schema
		type who struct{ Role, Schema string }
		w, unknown := sqldb.Read(ctx, db, "schema.who", func(tx *sqldb.Tx) (w who, err error) { return w, tx.Get(&w, ask) })
		if unknown != nil {
			return err
		}
		return fmt.Errorf("%w; migrate as the role that owns the tables, or let its owner run "+
			"GRANT USAGE, CREATE ON SCHEMA %[2]s TO %[3]s; to read the state alone, GRANT SELECT ON automation_schema_migrations TO %[3]s is enough",
			err, w.Schema, w.Role)
	case "55P03":
		return fmt.Errorf("%w; a table is in use by a long transaction: try again, or find it in pg_stat_activity; nothing was changed", err)
	}
	if h := sqldb.Hint(err); h != "" {
		return fmt.Errorf("%w; %s", err, h)
	}
	return err
}
