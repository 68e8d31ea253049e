// Package sqldb runs the module's SQL on the host's connection pool.
//
// Every statement runs in an explicit transaction with local time-outs, takes
// one of a few slots, and ends by its deadline even when the driver hangs. Why
// each of these is needed is told in docs/decisions/0002-database-access.md.
//
// Statements are written once for PostgreSQL and SQLite; what differs stands
// in braces and is put in by [DB.Expand].
package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrOutcomeUnknown says that a COMMIT was sent and its answer lost: the
// transaction has been applied once or not at all. Repeat the write if it can
// be repeated without harm; read to find out otherwise.
var ErrOutcomeUnknown = errors.New("outcome of the database transaction is unknown")

// ErrUnavailable says that the database could not be used: no connection, no
// answer in time, or no free slot. Nothing was applied.
var ErrUnavailable = errors.New("database unavailable")

// Options are the bounds of a DB. The zero value works.
type Options struct {
	// MaxConns bounds how many of the pool's connections the module uses at
	// once, those that hang included. 0 means 16.
	MaxConns int
	// Timeout bounds one transaction, waiting for a slot and a connection
	// included; an earlier deadline of the context wins. 0 means 5 s.
	Timeout time.Duration
	// Observe, if set, is called once for each call with its name, how long it
	// waited for a slot, how long it took in all, and its error.
	Observe func(name string, wait, took time.Duration, err error)
}

// DB is the host's pool with the module's bounds around it.
type DB struct {
	pool    *sqlx.DB
	lite    bool
	slots   chan struct{}
	timeout time.Duration
	setup   string
	observe func(string, time.Duration, time.Duration, error)
	texts   texts
}

// New wraps pool. A driver whose name contains "sqlite" is SQLite; everything
// else is spoken to as PostgreSQL.
func New(pool *sqlx.DB, o Options) *DB {
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	ms := o.Timeout.Milliseconds()
	return &DB{
		pool:    pool,
		lite:    strings.Contains(pool.DriverName(), "sqlite"),
		slots:   make(chan struct{}, o.MaxConns),
		timeout: o.Timeout,
		observe: o.Observe,
		// One statement, so that every driver sends it in one message. The
		// settings end with the transaction: a pooler's next client never
		// meets them.
		setup: fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true), set_config('idle_in_transaction_session_timeout', '%d', true)`,
			ms, max(ms*4/5, 1), ms),
	}
}

// SQLite tells which of the two databases this is.
func (db *DB) SQLite() bool { return db.lite }

// Write runs fn in a transaction and commits it. Fn may run more than once, so
// it must do nothing but SQL and return what it found; it must not keep tx.
//
// An error that wraps ErrOutcomeUnknown is the only one after which the
// transaction may have been applied.
func Write[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, fn, false)
}

// Read is Write for a fn that changes nothing: its commit cannot be in doubt.
func Read[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, fn, true)
}

// tries is how often a transaction that the server rolled back, or that lost
// its connection before COMMIT, is run in all.
const tries = 3

func run[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error), readOnly bool) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	begun := now()
	var wait time.Duration
	if db.observe != nil {
		defer func() { db.observe(name, wait, now().Sub(begun), err) }()
	}
	select {
	case db.slots <- struct{}{}:
	default:
		select {
		case db.slots <- struct{}{}:
			wait = now().Sub(begun)
		case <-ctx.Done():
			return v, fmt.Errorf("%s: all %d database slots are busy: %w: %w", name, cap(db.slots), ErrUnavailable, ctx.Err())
		}
	}
	type result struct {
		v   T
		err error
	}
	// The driver may hang past the deadline, so the work has a goroutine of
	// its own, which keeps its slot until the driver lets go.
	done := make(chan result, 1)
	var p phase
	go func() {
		defer func() { <-db.slots }()
		var r result
		defer func() {
			if c := recover(); c != nil {
				r.err = fmt.Errorf("panic: %v", c)
			}
			done <- r
		}()
		for i := 1; ; i++ {
			r.v, r.err = once(ctx, db, &p, fn)
			if r.err == nil || i == tries || !repeatable(r.err) || ctx.Err() != nil {
				return
			}
		}
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		// An orderly cancel takes the driver a moment.
		grace := time.NewTimer(50 * time.Millisecond)
		defer grace.Stop()
		select {
		case r = <-done:
		case <-grace.C:
			if p.abandon() || readOnly {
				return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, ctx.Err())
			}
			return v, fmt.Errorf("%s: %w: %w", name, ErrOutcomeUnknown, ctx.Err())
		}
	}
	if r.err == nil {
		return r.v, nil
	}
	if readOnly && errors.Is(r.err, ErrOutcomeUnknown) {
		return v, fmt.Errorf("%s: %w: commit: %w", name, ErrUnavailable, errors.Unwrap(r.err))
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(r.err, cause) {
		r.err = errors.Join(r.err, cause)
	}
	return v, fmt.Errorf("%s: %w", name, r.err)
}

// phase is the race between a caller that gives up and a transaction that is
// about to commit: whoever comes first decides.
type phase struct{ state atomic.Int32 }

const (
	running int32 = iota
	committing
	abandoned
)

func (p *phase) commit() bool  { return p.state.CompareAndSwap(running, committing) }
func (p *phase) abandon() bool { return p.state.CompareAndSwap(running, abandoned) }

func once[T any](ctx context.Context, db *DB, p *phase, fn func(*Tx) (T, error)) (v T, err error) {
	conn, err := db.pool.Connx(ctx)
	if err != nil {
		return v, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() {
		if spoiled(err) {
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		_ = conn.Close()
	}()
	tx, err := conn.BeginTxx(ctx, nil)
	if err != nil {
		return v, fmt.Errorf("%w: begin: %w", ErrUnavailable, err)
	}
	defer func() { _ = tx.Rollback() }()
	t := &Tx{tx: tx, db: db, ctx: ctx}
	if !db.lite {
		if _, err := tx.ExecContext(ctx, db.setup); err != nil {
			return v, lost(err)
		}
	}
	got, err := fn(t)
	if err != nil {
		return v, lost(err)
	}
	if !p.commit() {
		return v, fmt.Errorf("%w: given up before commit", ErrUnavailable)
	}
	if err := tx.Commit(); err != nil {
		if refused(err) {
			p.state.Store(running)
			return v, lost(err)
		}
		return v, &unknown{err}
	}
	return got, nil
}

// unknown is a lost answer to a COMMIT.
type unknown struct{ err error }

func (e *unknown) Error() string        { return ErrOutcomeUnknown.Error() + ": " + e.err.Error() }
func (e *unknown) Unwrap() error        { return e.err }
func (e *unknown) Is(target error) bool { return target == ErrOutcomeUnknown }

// Tx is one transaction. Queries are templates, see [DB.Expand].
type Tx struct {
	tx  *sqlx.Tx
	db  *DB
	ctx context.Context //nolint:containedctx // a Tx lives within one call
}

// SQLite tells which of the two databases this is.
func (t *Tx) SQLite() bool { return t.db.lite }

// Get reads one row into dest, or returns sql.ErrNoRows.
func (t *Tx) Get(dest any, query string, args ...any) error {
	return t.tx.GetContext(t.ctx, dest, t.db.Expand(query), args...)
}

// Select reads all rows into the slice that dest points to.
func (t *Tx) Select(dest any, query string, args ...any) error {
	return t.tx.SelectContext(t.ctx, dest, t.db.Expand(query), args...)
}

// Exec runs a statement and tells how many rows it touched.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	res, err := t.tx.ExecContext(t.ctx, t.db.Expand(query), args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// Lock takes the lock of that name until the transaction ends. SQLite, which
// has one writer at a time, needs none.
func (t *Tx) Lock(name string) error {
	if t.db.lite {
		return nil
	}
	_, err := t.tx.ExecContext(t.ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "automation:"+name)
	return err
}

// Optional turns sql.ErrNoRows into false.
func Optional(err error) (found bool, _ error) {
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Script runs one statement as it stands, braces and all.
func (t *Tx) Script(statement string) error {
	_, err := t.tx.ExecContext(t.ctx, statement)
	return err
}
