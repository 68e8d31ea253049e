package sqldb

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
)

// Tx is one transaction, for one goroutine. Queries may contain the macros of
// [DB.Expand].
type Tx struct {
	tx     *sqlx.Tx
	db     *DB
	ctx    context.Context //nolint:containedctx // a Tx exists within one call
	failed error           // the first statement's error, after which PostgreSQL would roll back at COMMIT
}

// SQLite reports whether this is SQLite; otherwise it is PostgreSQL.
func (t *Tx) SQLite() bool { return t.db.sqlite }

// Get reads one row into dest, or returns sql.ErrNoRows.
func (t *Tx) Get(dest any, query string, args ...any) error {
	return t.note(t.tx.GetContext(t.ctx, dest, t.db.Expand(query), args...))
}

// Select reads all rows into the slice that dest points to.
func (t *Tx) Select(dest any, query string, args ...any) error {
	return t.note(t.tx.SelectContext(t.ctx, dest, t.db.Expand(query), args...))
}

// Exec runs a statement and returns how many rows it affected.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, t.db.Expand(query), args...)
	if err != nil {
		return 0, t.note(err)
	}
	return res.RowsAffected()
}

// Script runs a statement without expanding macros.
func (t *Tx) Script(statement string) error {
	_, err := t.tx.ExecContext(t.ctx, statement)
	return t.note(err)
}

// Lock holds the advisory lock of that name until the transaction ends. SQLite
// has one writer at a time and needs none.
func (t *Tx) Lock(name string) error {
	if t.db.sqlite {
		return nil
	}
	_, err := t.tx.ExecContext(t.ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "automation:"+name)
	return t.note(err)
}

// SetContext sets a value that the triggers read, such as the actor of a change.
// Empty removes it, which the transaction has to do itself: PostgreSQL would
// forget it at its end, but SQLite keeps it in the table automation_context.
func (t *Tx) SetContext(key, value string) error {
	query := `SELECT set_config('automation.' || $1, $2, true)`
	args := []any{key, value}
	if t.SQLite() {
		query = `INSERT OR REPLACE INTO automation_context (key, value) VALUES ($1, $2)`
		if value == "" {
			query, args = `DELETE FROM automation_context WHERE key = $1`, []any{key}
		}
	}
	_, err := t.Exec(query, args...)
	return err
}

func (t *Tx) note(err error) error {
	if t.failed == nil && !errors.Is(err, sql.ErrNoRows) {
		t.failed = err
	}
	return err
}

// Optional returns false instead of sql.ErrNoRows.
func Optional(err error) (found bool, _ error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
