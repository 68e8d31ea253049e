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

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

const (
	// maxAttempts is how often a transaction runs that the server rolled back,
	// or that lost its connection before COMMIT.
	maxAttempts = 3
	// grace is how long after the deadline a driver may take to return.
	grace = 50 * time.Millisecond
)

var errGoexit = errors.New("the transaction's function ended its goroutine")

type result[T any] struct {
	v   T
	err error
}

func run[T any](ctx context.Context, db *DB, name string, fn func(context.Context, *phase) (T, error), readOnly bool) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, db.timeout)
	defer cancel()
	started := now()
	var wait time.Duration
	if db.observe != nil {
		defer func() { db.observe(name, wait, now().Sub(started), err) }()
	}
	if err := ctx.Err(); err != nil {
		return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, err)
	}
	slots := db.slots
	select {
	case slots <- struct{}{}:
	default:
		var urgentSlot chan struct{} // nil, and so never ready, for other calls
		if ctx.Value(urgent{}) != nil {
			urgentSlot = db.urgentSlot
		}
		select {
		case slots <- struct{}{}:
			wait = now().Sub(started)
		case urgentSlot <- struct{}{}:
			slots = urgentSlot
		case <-ctx.Done():
			wait = now().Sub(started)
			return v, fmt.Errorf("%s: all %d database slots are busy: %w: %w", name, cap(db.slots), ErrUnavailable, ctx.Err())
		}
	}
	// The driver may hang past the deadline, so the transaction has its own
	// goroutine, which keeps its slot until the driver returns.
	var p phase
	done := make(chan result[T], 1)
	go func() {
		r := result[T]{err: errGoexit}
		defer func() {
			if c := recover(); c != nil {
				r.err = fmt.Errorf("panic: %v", c)
			}
			<-slots
			done <- r
		}()
		r.v, r.err = fn(ctx, &p)
	}()
	var r result[T]
	select {
	case r = <-done:
	case <-ctx.Done():
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case r = <-done:
		case <-timer.C:
			if p.abandon() && !p.doubt.Load() || readOnly {
				return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, ctx.Err())
			}
			return v, fmt.Errorf("%s: %w: %w", name, ErrOutcomeUnknown, ctx.Err())
		}
	}
	if r.err == nil {
		return r.v, nil
	}
	if p.doubt.Load() && !errors.Is(r.err, ErrOutcomeUnknown) {
		r.err = &unknown{r.err}
	}
	if u, ok := errors.AsType[*unknown](r.err); ok && readOnly {
		r.err = fmt.Errorf("%w: commit: %w", ErrUnavailable, u.err)
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(r.err, cause) {
		r.err = errors.Join(r.err, cause)
	}
	return v, fmt.Errorf("%s: %w", name, r.err)
}

// phase decides between a caller that gives up and a transaction that is about
// to commit: the first of the two wins.
type phase struct {
	state atomic.Int32
	doubt atomic.Bool // an earlier attempt may have been applied
}

const (
	running int32 = iota
	committing
	abandoned
)

// commit reports whether COMMIT may be sent.
func (p *phase) commit() bool { return p.state.CompareAndSwap(running, committing) }

// rolledBack undoes commit after the server has rolled back.
func (p *phase) rolledBack() { p.state.Store(running) }

// again undoes commit before another attempt, after one that was rolled back or,
// in doubt, perhaps not.
func (p *phase) again(doubt bool) {
	p.doubt.Store(doubt)
	p.rolledBack()
}

// abandon reports whether no COMMIT was or will be sent.
func (p *phase) abandon() bool {
	return p.state.CompareAndSwap(running, abandoned) || p.state.Load() == abandoned
}

// modes are what a transaction states of itself.
type modes struct {
	readOnly bool
	setup    string // what is sent to PostgreSQL first
}

// repeat runs fn's transaction until it is committed or another attempt is
// pointless.
func repeat[T any](ctx context.Context, db *DB, p *phase, fn func(*Tx) (T, error), m modes) (v T, err error) {
	// A caller that gives up ends the running statement but not a COMMIT, whose
	// outcome would become unknown without need. The deadline ends both.
	deadline, _ := ctx.Deadline()
	work, stop := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer stop()
	defer context.AfterFunc(ctx, func() {
		if p.abandon() {
			stop()
		}
	})()
	for attempt := 1; ; attempt++ {
		conn, tx, err := begin(work, db, m.readOnly)
		if err != nil {
			return v, err
		}
		v, err = once(work, db, p, conn, tx, fn, m.setup)
		if err == nil || attempt == maxAttempts || !repeatable(err) {
			return v, err
		}
		// After a deadlock the other transaction must be able to finish first.
		pause := time.Duration(attempt) * 5 * time.Millisecond
		if retry.Sleep(ctx, pause+rand.N(2*pause)) != nil {
			return v, err
		}
	}
}

// begin tries the pool's connections until one of them works: after a restart
// of the server all of them are dead.
func begin(ctx context.Context, db *DB, readOnly bool) (*sqlx.Conn, *sqlx.Tx, error) {
	opts := &sql.TxOptions{Isolation: sql.LevelReadCommitted, ReadOnly: readOnly}
	if db.sqlite {
		opts.Isolation = sql.LevelDefault // SQLite's only one: serializable
	}
	for left := db.pool.Stats().OpenConnections; ; left-- {
		conn, err := db.pool.Connx(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		tx, err := conn.BeginTxx(ctx, opts)
		if err == nil {
			return conn, tx, nil
		}
		err = asReadOnlyServer(err)
		release(conn, unusable(err))
		if left <= 0 || !unusable(err) || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("%w: begin: %w", ErrUnavailable, err)
		}
	}
}

// release returns a connection to the pool, which drops it if told so.
func release(conn *sqlx.Conn, drop bool) {
	if drop {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = conn.Close() // its only error is that it is closed already
}

func once[T any](ctx context.Context, db *DB, p *phase, conn *sqlx.Conn, tx *sqlx.Tx, fn func(*Tx) (T, error), setup string) (v T, err error) {
	defer func() {
		_ = tx.Rollback()
		release(conn, unusable(err))
	}()
	t := &Tx{tx: tx, db: db, ctx: ctx}
	if !db.sqlite {
		if _, err := tx.ExecContext(ctx, setup); err != nil {
			return v, asUnavailable(asReadOnlyServer(err))
		}
	}
	got, err := fn(t)
	if err == nil {
		err = t.failed
	}
	if err != nil {
		return v, asUnavailable(err)
	}
	if ctx.Err() != nil || !p.commit() {
		return v, fmt.Errorf("%w: the caller gave up before COMMIT", ErrUnavailable)
	}
	if err := tx.Commit(); err != nil {
		if rolledBack(err) {
			p.rolledBack()
			return v, asUnavailable(err)
		}
		return v, &unknown{err}
	}
	return got, nil
}

// unknown is a lost reply to a COMMIT.
type unknown struct{ err error }

func (e *unknown) Error() string        { return ErrOutcomeUnknown.Error() + ": " + e.err.Error() }
func (e *unknown) Unwrap() error        { return e.err }
func (e *unknown) Is(target error) bool { return target == ErrOutcomeUnknown }
