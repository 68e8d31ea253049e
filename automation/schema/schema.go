// Package schema creates the module's tables in a database, checks and removes
// them.
//
// The migrations are plain SQL files, so any migration tool can apply them as
// well. [Migrate] runs each in a transaction of its own under one lock: any number of
// replicas may call it at once when they start, and a killed replica leaves no
// migration half applied.
//
//	applied, err := schema.Migrate(ctx, db)
//
// On PostgreSQL, if the host already has a table feature_flags or
// user_automation_settings, Migrate adopts it with its data. [Down] restores it.
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

// ErrNewer means that the database has migrations that this program does not
// know. It can use such a database, because migrations only add, but not revert them.
var ErrNewer = errors.New("the database is newer than this program")

// ErrUnavailable means that the database could not be used; nothing was changed.
var ErrUnavailable = sqldb.ErrUnavailable

// Migration is one version of the schema.
type Migration struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at"` // zero: not applied
}

const (
	// timeout limits one migration, including the wait for another replica, and one
	// inspection of the whole schema. No request waits for either.
	timeout = 2 * time.Minute
	// lockTimeout limits how long a migration waits to lock a table. While it waits,
	// all later statements on the table wait, too.
	lockTimeout = "5s"
)

// Migrate applies the missing migrations in order, and returns those that it applied.
// If all migrations are recorded but some of their objects are missing, it applies
// all of them again, which changes no object that exists. Objects may be missing after
// another tool has reverted the migrations or a backup was restored. [MakePlan] reports
// beforehand what Migrate would do.
//
// It is safe to call from many processes at once and at every start: if nothing is
// missing, it only reads. Each migration takes at most two minutes, including the wait
// for another process, and waits at most five seconds to lock a table.
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
		var changed bool
		changed, err = runStep(ctx, db, "schema.migrate", func(tx *sqldb.Tx, have map[int]Migration) (bool, error) {
			if other, ok := have[m.Version]; ok { // another process has applied it
				m = other
				return false, nil
			}
			if err := runFile(tx, m, "up"); err != nil {
				return false, err
			}
			recorded, err := readApplied(tx)
			if _, ok := recorded[m.Version]; !ok && err == nil {
				err = fmt.Errorf("%s does not record itself in automation_schema_migrations", m.fileName(tx.SQLite(), "up"))
			}
			m = recorded[m.Version]
			return true, err
		})
		if changed {
			applied = append(applied, m)
		}
	}
	// A migration may fail because an object of an older one is missing.
	incomplete := err != nil && slices.ContainsFunc(list, func(m Migration) bool { return !m.AppliedAt.IsZero() }) &&
		!errors.Is(err, ErrUnavailable) && !errors.Is(err, sqldb.ErrOutcomeUnknown)
	if err == nil || incomplete {
		repaired, repairErr := repair(ctx, db, incomplete)
		if repaired != nil {
			applied, err = repaired, nil
		}
		err = cmp.Or(err, repairErr)
	}
	if err != nil {
		return applied, fmt.Errorf("schema: migrate: %w", hint(ctx, db, err))
	}
	return applied, nil
}

// Down reverts the given number of migrations, the newest first, and returns those
// that it reverted. It deletes the data of the module's own tables. An adopted table
// is kept and gets its original form back. If the newest migration is one that this
// program does not know, Down changes nothing and returns ErrNewer.
func Down(ctx context.Context, pool *sqlx.DB, steps int) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	list, err := status(ctx, db)
	known := embedded(db.SQLite())
	var reverted []Migration
	for _, m := range slices.Backward(list) {
		if err != nil || steps <= 0 {
			break
		}
		if m.AppliedAt.IsZero() {
			continue
		}
		steps--
		var changed bool
		changed, err = runStep(ctx, db, "schema.down", func(tx *sqldb.Tx, have map[int]Migration) (bool, error) {
			if _, ok := have[m.Version]; !ok {
				return false, nil
			}
			newest := slices.Max(slices.Collect(maps.Keys(have)))
			isKnown := slices.ContainsFunc(known, func(k Migration) bool { return k.Version == m.Version })
			if newest != m.Version || !isKnown {
				return false, fmt.Errorf("%w: migration %d is unknown; revert it with the program that applied it", ErrNewer, newest)
			}
			return true, runFile(tx, m, "down")
		})
		if changed {
			m.AppliedAt = time.Time{}
			reverted = append(reverted, m)
		}
	}
	if err != nil {
		return reverted, fmt.Errorf("schema: down: %w", hint(ctx, db, err))
	}
	return reverted, nil
}

// runStep runs fn in a transaction under the lock of all migrations, and reports whether
// it changed something. fn gets the applied migrations, so that it can run again after a
// COMMIT whose reply was lost.
func runStep(ctx context.Context, db *sqldb.DB, name string, fn func(tx *sqldb.Tx, have map[int]Migration) (bool, error)) (changed bool, err error) {
	inDoubt := false
	for range 3 {
		changed, err = sqldb.Write(ctx, db, name, func(tx *sqldb.Tx) (bool, error) {
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
			return fn(tx, have)
		})
		if !errors.Is(err, sqldb.ErrOutcomeUnknown) {
			break
		}
		inDoubt = true
	}
	return err == nil && (changed || inDoubt), err
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
	const query = `SELECT quote_ident(current_user) AS role, quote_ident(coalesce(current_schema(), 'public')) AS schema`
	switch sqldb.SQLState(err) {
	case "42501", "3F000": // no privilege, no schema
		type names struct{ Role, Schema string }
		n, queryErr := sqldb.Read(ctx, db, "schema.who", func(tx *sqldb.Tx) (n names, err error) { return n, tx.Get(&n, query) })
		if queryErr != nil {
			return err
		}
		return fmt.Errorf("%w; migrate as the role that owns the tables, or let the schema's owner run "+
			"GRANT USAGE, CREATE ON SCHEMA %[2]s TO %[3]s; to read the state, GRANT SELECT ON automation_schema_migrations TO %[3]s is enough",
			err, n.Schema, n.Role)
	case "55P03":
		return fmt.Errorf("%w; a long transaction is using a table: try again, or find the transaction in pg_stat_activity; nothing was changed", err)
	}
	if h := sqldb.Hint(err); h != "" {
		return fmt.Errorf("%w; %s", err, h)
	}
	return err
}
