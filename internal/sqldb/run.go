package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

const (
	// tries is how often a transaction that the server rolled back, or that
	// lost its connection before COMMIT, is run in all.
	tries = 3
	// grace is what a driver gets to end a call in an orderly way.
	grace = 50 * time.Millisecond
)

var errVanished = errors.New("the transaction's function ended its goroutine")

type result[T any] struct {
	v   T
	err error
}

func run[T any](ctx context.Context, db *DB, name string, fn func(*Tx) (T, error), readOnly bool) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	begun := now()
	var wait time.Duration
	if db.observe != nil {
		defer func() { db.observe(name, wait, now().Sub(begun), err) }()
	}
	if err := ctx.Err(); err != nil {
		return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, err)
	}
	slots := db.slots
	select {
	case slots <- struct{}{}:
	default:
		var spare chan struct{} // nil, and so never ready, for ordinary calls
		if ctx.Value(urgent{}) != nil {
			spare = db.spare
		}
		select {
		case slots <- struct{}{}:
			wait = now().Sub(begun)
		case spare <- struct{}{}:
			slots = spare
		case <-ctx.Done():
			wait = now().Sub(begun)
			return v, fmt.Errorf("%s: all %d database slots are busy: %w: %w", name, cap(db.slots), ErrUnavailable, ctx.Err())
		}
	}
	// The driver may hang past the deadline, so the work has a goroutine of
	// its own, which keeps its slot until the driver lets go.
	var p phase
	done := make(chan result[T], 1)
	go func() {
		r := result[T]{err: errVanished}
		defer func() {
			if c := recover(); c != nil {
				r.err = fmt.Errorf("panic: %v", c)
			}
			<-slots
			done <- r
		}()
		r.v, r.err = repeat(ctx, db, &p, fn, readOnly)
	}()
	var r result[T]
	select {
	case r = <-done:
	case <-ctx.Done():
		late := time.NewTimer(grace)
		defer late.Stop()
		select {
		case r = <-done:
		case <-late.C:
			if p.abandon() || readOnly {
				return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, ctx.Err())
			}
			return v, fmt.Errorf("%s: %w: %w", name, ErrOutcomeUnknown, ctx.Err())
		}
	}
	if r.err == nil {
		return r.v, nil
	}
	if u, ok := errors.AsType[*unknown](r.err); ok && readOnly {
		r.err = fmt.Errorf("%w: commit: %w", ErrUnavailable, u.err)
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

// commit tells whether COMMIT may be sent.
func (p *phase) commit() bool { return p.state.CompareAndSwap(running, committing) }

// refused takes commit back: the server said no.
func (p *phase) refused() { p.state.Store(running) }

// abandon tells whether it is certain that no COMMIT was or will be sent.
func (p *phase) abandon() bool {
	return p.state.CompareAndSwap(running, abandoned) || p.state.Load() == abandoned
}

// repeat runs fn's transaction until it is committed, or another try is of no use.
func repeat[T any](ctx context.Context, db *DB, p *phase, fn func(*Tx) (T, error), readOnly bool) (v T, err error) {
	// A caller who gives up ends the statement that runs, but not a COMMIT: cut
	// off, that would leave its outcome in doubt for nothing. The deadline
	// ends both.
	deadline, _ := ctx.Deadline()
	work, stop := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if p.abandon() {
			stop()
		}
	})()
	for i := 1; ; i++ {
		conn, tx, err := begin(work, db, readOnly)
		if err != nil {
			return v, err
		}
		v, err = once(work, db, p, conn, tx, fn, readOnly)
		if err == nil || i == tries || !repeatable(err) || !pause(ctx, i) {
			return v, err
		}
	}
}

// pause lets the other side of a deadlock go first, who would lose its turn to
// a transaction that came back at once. It tells whether ctx still lasts.
func pause(ctx context.Context, tried int) bool {
	least := time.Duration(tried) * 5 * time.Millisecond
	t := time.NewTimer(least + rand.N(2*least))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// begin takes the pool's connections until it finds one that lives. A server
// that restarted leaves a whole pool of dead ones.
func begin(ctx context.Context, db *DB, readOnly bool) (*sqlx.Conn, *sqlx.Tx, error) {
	for left := db.pool.Stats().OpenConnections; ; left-- {
		conn, err := db.pool.Connx(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		tx, err := conn.BeginTxx(ctx, db.txOptions(readOnly))
		if err == nil {
			return conn, tx, nil
		}
		release(conn, err)
		if left <= 0 || !spoiled(err) || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("%w: begin: %w", ErrUnavailable, err)
		}
	}
}

// txOptions state the isolation that the statements are written for, whatever
// the host's default: under a stricter one the caps on sessions would count an
// old snapshot. SQLite knows no other than its own.
func (db *DB) txOptions(readOnly bool) *sql.TxOptions {
	if db.lite {
		return &sql.TxOptions{ReadOnly: readOnly}
	}
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: readOnly}
}

// release gives a connection back, or sees to it that nobody gets it again.
func release(conn *sqlx.Conn, err error) {
	if spoiled(err) {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = conn.Close() // says only that it is closed already
}

func once[T any](ctx context.Context, db *DB, p *phase, conn *sqlx.Conn, tx *sqlx.Tx, fn func(*Tx) (T, error), readOnly bool) (v T, err error) {
	defer func() {
		_ = tx.Rollback()
		release(conn, err)
	}()
	t := &Tx{tx: tx, db: db, ctx: ctx}
	if !db.lite {
		setup := db.setup
		if !readOnly { // pgx leaves it to the host's default
			setup = `SET TRANSACTION READ WRITE; ` + setup
		}
		if _, err := tx.ExecContext(ctx, setup); err != nil {
			return v, lost(err)
		}
	}
	got, err := fn(t)
	if err == nil {
		err = t.failed
	}
	if err != nil {
		return v, lost(err)
	}
	if ctx.Err() != nil || !p.commit() {
		return v, fmt.Errorf("%w: given up before commit", ErrUnavailable)
	}
	if err := tx.Commit(); err != nil {
		if refused(err) {
			p.refused()
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
