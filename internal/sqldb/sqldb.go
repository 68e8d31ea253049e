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
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrOutcomeUnknown says that a COMMIT was sent and its answer lost: the
// transaction has been applied once or not at all. Repeat the write if it can
// be repeated without harm; read to find out otherwise.
var ErrOutcomeUnknown = errors.New("outcome of the database transaction is unknown")

// ErrUnavailable says that the database could not be used: no connection, no
// answer in time, no room, or no free slot. Nothing was applied.
var ErrUnavailable = errors.New("database unavailable")

// Options are the bounds of a DB. The zero value works.
type Options struct {
	// MaxConns bounds how many of the pool's connections the module uses at
	// once, those that hang included; urgent calls may use one more. 0 means 16.
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
	spare   chan struct{} // for urgent calls
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
	ms := max(o.Timeout.Milliseconds(), 1) // 0 would be no bound at all
	return &DB{
		pool:    pool,
		lite:    strings.Contains(pool.DriverName(), "sqlite"),
		slots:   make(chan struct{}, o.MaxConns),
		spare:   make(chan struct{}, 1),
		timeout: o.Timeout,
		observe: o.Observe,
		// Without parameters, so that every driver sends it in one message. The
		// settings end with the transaction: a pooler's next client never
		// meets them. Times without a zone, which an adopted table may have,
		// are UTC. A commit that was reported survives a crash, whatever the
		// host's default; a stronger one of the host's stays.
		setup: fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true), set_config('idle_in_transaction_session_timeout', '%d', true), set_config('TimeZone', 'UTC', true)`+
			`, set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on' ELSE current_setting('synchronous_commit') END, true)`,
			ms, max(ms*4/5, 1), ms),
	}
}

// SQLite tells which of the two databases this is.
func (db *DB) SQLite() bool { return db.lite }

type urgent struct{}

// Urgent marks calls that must not wait behind a crowd for a slot, such as the
// heartbeat that the crowd's leases depend on.
func Urgent(ctx context.Context) context.Context {
	return context.WithValue(ctx, urgent{}, true)
}

// Write runs fn in a transaction and commits it. Fn may run more than once, so
// it must do nothing but SQL and return what it found; it must not keep tx. A
// statement that failed fails the transaction, whatever fn returns; a panic in
// fn is an error.
//
// An error that wraps ErrOutcomeUnknown is the only one after which the
// transaction may have been applied.
func Write[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, fn, false)
}

// Read is Write for a fn that changes nothing: its commit cannot be in doubt,
// and a standby serves it as well.
func Read[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, fn, true)
}
