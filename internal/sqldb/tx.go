package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jmoiron/sqlx"
)

// Tx is one transaction, for one goroutine. Queries may contain the macros of
// [DB.Expand].
type Tx struct {
	tx     *sqlx.Tx
	db     *DB
	ctx    context.Context //nolint:containedctx // a Tx exists within one call
	failed error           // the first error of a statement; after one, PostgreSQL's COMMIT rolls back
}

// SQLite reports whether this is SQLite; otherwise it is PostgreSQL.
func (t *Tx) SQLite() bool { return t.db.sqlite }

// Get reads one row into dest, or returns sql.ErrNoRows.
func (t *Tx) Get(dest any, query string, args ...any) error {
	query, args = t.statement(query, args)
	return t.keepError(t.tx.GetContext(t.ctx, dest, query, args...))
}

// Select reads all rows into the slice that dest points to.
func (t *Tx) Select(dest any, query string, args ...any) error {
	query, args = t.statement(query, args)
	return t.keepError(t.tx.SelectContext(t.ctx, dest, query, args...))
}

// Exec runs a statement and returns how many rows it affected.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	query, args = t.statement(query, args)
	res, err := t.tx.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, t.keepError(err)
	}
	return res.RowsAffected()
}

// Script runs a statement without expanding macros.
func (t *Tx) Script(statement string) error {
	_, err := t.tx.ExecContext(t.ctx, statement)
	return t.keepError(err)
}

// Lock takes the advisory lock of that name, which is held until the transaction
// ends. SQLite has one writer at a time and needs no locks.
func (t *Tx) Lock(name string) error {
	if t.db.sqlite {
		return nil
	}
	return t.Script(lockStatement(name))
}

// lockStatement returns the statement that takes the advisory lock of that name. The name is
// in hexadecimal, so that any name is safe without a parameter.
func lockStatement(name string) string {
	return fmt.Sprintf(`SELECT pg_advisory_xact_lock(hashtextextended(convert_from(decode('%x', 'hex'), 'UTF8'), 0))`, "automation:"+name)
}

// SetActor tells the triggers who makes the changes that follow. A transaction has
// to remove the actor, with "", before it ends: PostgreSQL would forget the actor
// then, but SQLite keeps it in the table automation_context.
func (t *Tx) SetActor(actor string) error {
	query, args := `SELECT set_config('automation.actor', $1, true)`, []any{actor}
	if t.SQLite() {
		query = `INSERT OR REPLACE INTO automation_context (key, value) VALUES ('actor', $1)`
		if actor == "" {
			query, args = `DELETE FROM automation_context WHERE key = 'actor'`, nil
		}
	}
	_, err := t.Exec(query, args...)
	return err
}

// statement returns the query and the arguments to send: macros expanded, and
// arguments written as literals if the host wants that.
func (t *Tx) statement(query string, args []any) (string, []any) {
	query = t.db.Expand(query)
	if t.db.literals && len(args) > 0 {
		if s, ok := withLiterals(query, args); ok {
			return s, nil
		}
	}
	return query, args
}

// keepError remembers a transaction's first error besides sql.ErrNoRows.
func (t *Tx) keepError(err error) error {
	if t.failed == nil && !errors.Is(err, sql.ErrNoRows) {
		t.failed = err
	}
	return err
}

// Optional returns false and no error for sql.ErrNoRows, and any other error as it is.
func Optional(err error) (found bool, _ error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
