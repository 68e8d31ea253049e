package sqldb

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jmoiron/sqlx"
)

// Tx is one transaction. Queries are templates, see [DB.Expand]. It belongs to
// one goroutine.
type Tx struct {
	tx     *sqlx.Tx
	db     *DB
	ctx    context.Context //nolint:containedctx // a Tx lives within one call
	failed error           // of the first statement that did: PostgreSQL would roll back at COMMIT
}

// SQLite tells which of the two databases this is.
func (t *Tx) SQLite() bool { return t.db.lite }

// Get reads one row into dest, or returns sql.ErrNoRows.
func (t *Tx) Get(dest any, query string, args ...any) error {
	return t.note(t.tx.GetContext(t.ctx, dest, t.db.Expand(query), args...))
}

// Select reads all rows into the slice that dest points to.
func (t *Tx) Select(dest any, query string, args ...any) error {
	return t.note(t.tx.SelectContext(t.ctx, dest, t.db.Expand(query), args...))
}

// Exec runs a statement and tells how many rows it touched.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, t.db.Expand(query), args...)
	if err != nil {
		return 0, t.note(err)
	}
	return res.RowsAffected()
}

// Script runs one statement as it stands, braces and all.
func (t *Tx) Script(statement string) error {
	_, err := t.tx.ExecContext(t.ctx, statement)
	return t.note(err)
}

// Lock takes the lock of that name until the transaction ends. SQLite, which
// has one writer at a time, needs none.
func (t *Tx) Lock(name string) error {
	if t.db.lite {
		return nil
	}
	_, err := t.tx.ExecContext(t.ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "automation:"+name)
	return t.note(err)
}

func (t *Tx) note(err error) error {
	if t.failed == nil && !errors.Is(err, sql.ErrNoRows) {
		t.failed = err
	}
	return err
}

// Optional turns sql.ErrNoRows into false.
func Optional(err error) (found bool, _ error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
