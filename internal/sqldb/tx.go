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
	failed error           // the first statement's error, after which PostgreSQL would roll back at COMMIT
}

// SQLite reports whether this is SQLite; otherwise it is PostgreSQL.
func (t *Tx) SQLite() bool { return t.db.sqlite }

// Get reads one row into dest, or returns sql.ErrNoRows.
func (t *Tx) Get(dest any, query string, args ...any) error {
	query, args = t.statement(query, args)
	return t.note(t.tx.GetContext(t.ctx, dest, query, args...))
}

// Select reads all rows into the slice that dest points to.
func (t *Tx) Select(dest any, query string, args ...any) error {
	query, args = t.statement(query, args)
	return t.note(t.tx.SelectContext(t.ctx, dest, query, args...))
}

// Exec runs a statement and returns how many rows it affected.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	query, args = t.statement(query, args)
	res, err := t.tx.ExecContext(t.ctx, query, args...)
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
	return t.Script(lockStatement(name))
}

// lockStatement takes the advisory lock of that name. The name's bytes are in hexadecimal, so
// that the statement needs no parameter whatever is in it.
func lockStatement(name string) string {
	return fmt.Sprintf(`SELECT pg_advisory_xact_lock(hashtextextended(convert_from(decode('%x', 'hex'), 'UTF8'), 0))`, "automation:"+name)
}

// SetActor says who makes a change, for the triggers. Empty removes it, which the
// transaction has to do itself: PostgreSQL would forget it at its end, but SQLite
// keeps it in the table automation_context.
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

// statement returns what to send for a query.
func (t *Tx) statement(query string, args []any) (string, []any) {
	query = t.db.Expand(query)
	if t.db.literals && len(args) > 0 {
		if s, ok := withLiterals(query, args); ok {
			return s, nil
		}
	}
	return query, args
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
