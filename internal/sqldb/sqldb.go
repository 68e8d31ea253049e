// Package sqldb runs the module's SQL on the host's connection pool.
//
// Every statement runs in a transaction that states its own isolation level,
// access mode, durability and timeouts. A call takes one of a few slots and returns
// by its deadline even when the driver hangs. [Exec] and [Query] send a transaction
// of one statement in one message.
// docs/decisions/0002-database-access.md gives the reasons.
//
// Statements are written once for PostgreSQL and SQLite. Macros stand for the
// parts that differ, and [DB.Expand] replaces them.
package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrOutcomeUnknown means that a COMMIT, or a transaction of one statement, was
// sent and its reply was lost: it was applied once or not at all. The caller can
// repeat an idempotent write; after any other it has to read what was applied.
var ErrOutcomeUnknown = errors.New("outcome of the database transaction is unknown")

// ErrUnavailable means that the database could not be used: no connection, no
// reply in time, a full disk, or no free slot. Nothing was applied.
var ErrUnavailable = errors.New("database unavailable")

// Options are the bounds of a DB. The zero value works.
type Options struct {
	// MaxConns limits how many of the pool's connections the DB uses at once,
	// including those that hang; urgent calls may use one more. 0 means 16.
	MaxConns int
	// Timeout limits one transaction, including the wait for a slot and a
	// connection; an earlier deadline of the context wins. 0 means 5 s.
	Timeout time.Duration
	// InterpolateParams writes arguments into a transaction's statements as literals
	// if the driver needs another round trip for parameters, as lib/pq does. The
	// arguments then appear in the server's log of slow and failed statements.
	InterpolateParams bool
	// Observe, if set, is called once for each call with its name, how long it
	// waited for a slot, how long it took altogether, and its error.
	Observe func(name string, wait, took time.Duration, err error)
}

// DB is the host's pool, used within bounds.
type DB struct {
	pool       *sqlx.DB
	sqlite     bool
	driver     string // the import path of the driver's package
	literals   bool   // a transaction's statements get their arguments as literals
	slots      chan struct{}
	urgentSlot chan struct{}
	timeout    time.Duration
	setupRead  string // the first statement of a transaction
	setupWrite string
	observe    func(string, time.Duration, time.Duration, error)
	expanded   cache
}

// New wraps pool. A driver whose name contains "sqlite" is SQLite; every other
// one is PostgreSQL.
func New(pool *sqlx.DB, o Options) *DB {
	if o.MaxConns <= 0 {
		o.MaxConns = 16
	}
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	read, write := setup(o.Timeout)
	driver := driverOf(pool)
	return &DB{
		pool:       pool,
		sqlite:     strings.Contains(pool.DriverName(), "sqlite"),
		driver:     driver,
		literals:   o.InterpolateParams && driver == libpq,
		slots:      make(chan struct{}, o.MaxConns),
		urgentSlot: make(chan struct{}, 1),
		timeout:    o.Timeout,
		setupRead:  read,
		setupWrite: write,
		observe:    o.Observe,
	}
}

// setup returns the message that is sent to PostgreSQL first in a transaction.
// BEGIN itself states the isolation level and, for reads, the access mode. Together
// they override every default of the host. The settings end with the transaction, so
// that the next client of a pooler does not inherit them. Times without a zone,
// which an adopted table may have, are UTC.
func setup(timeout time.Duration) (read, write string) {
	ms := max(timeout.Milliseconds(), 1) // 0 would switch the timeout off
	settings := fmt.Sprintf(`SELECT set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true), set_config('idle_in_transaction_session_timeout', '%d', true), set_config('TimeZone', 'UTC', true)`,
		ms, max(ms*4/5, 1), ms)
	// Of all transactions only pgx's writes need SET TRANSACTION: pgx begins them
	// without READ WRITE.
	return `SET TRANSACTION READ ONLY; ` + settings, `SET TRANSACTION READ WRITE; ` + settings + `, ` + durability
}

// durability makes COMMIT wait until the transaction is on disk. A host's
// remote_apply stays, because it waits for even more than "on".
const durability = `set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)`

// SQLite reports whether this is SQLite; otherwise it is PostgreSQL.
func (db *DB) SQLite() bool { return db.sqlite }

// IsBusy reports whether a call would have to wait for one of the connections that the DB
// may use.
func (db *DB) IsBusy() bool { return len(db.slots) == cap(db.slots) }

type urgent struct{}

// Urgent marks calls that may use a slot of their own when all others are busy,
// such as the heartbeat on which the leases of the busy calls depend.
func Urgent(ctx context.Context) context.Context {
	return context.WithValue(ctx, urgent{}, true)
}

// Write runs fn in a transaction, READ COMMITTED and READ WRITE, and commits it.
// Fn may run more than once, so it must only run SQL and return its result; it
// must not keep tx. After a failed statement the transaction fails, whatever fn
// returns; a panic in fn becomes an error.
//
// If the error wraps ErrOutcomeUnknown, the transaction may have been applied;
// after any other error it was not.
func Write[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, func(ctx context.Context, p *phase) (T, error) { return repeat(ctx, db, p, fn, db.write()) }, false)
}

// WriteLocked is Write with the advisory locks of these names. They are taken before fn runs,
// in this order and without a round trip of their own, and held until the transaction ends.
// SQLite has one writer at a time and needs no locks.
func WriteLocked[T any](ctx context.Context, db *DB, name string, locks []string, fn func(*Tx) (T, error)) (T, error) {
	m := db.write()
	for _, lock := range locks {
		m.setup += `; ` + lockStatement(lock)
	}
	return run(ctx, db, name, func(ctx context.Context, p *phase) (T, error) { return repeat(ctx, db, p, fn, m) }, false)
}

// Read is Write for a fn that changes nothing: the transaction is READ ONLY, its
// outcome is never unknown, and a standby can serve it.
func Read[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error)) (T, error) {
	return run(ctx, db, name, func(ctx context.Context, p *phase) (T, error) {
		return repeat(ctx, db, p, fn, db.read())
	}, true)
}

func (db *DB) read() modes { return modes{readOnly: true, setup: db.setupRead} }

func (db *DB) write() modes { return modes{setup: db.setupWrite} }
