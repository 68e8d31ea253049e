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
	// maxAttempts limits the runs of a transaction that the server rolls back or
	// that loses its connection before COMMIT.
	maxAttempts = 3
	// grace is how long a driver may take to return after the deadline.
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
			nothingApplied := p.abandon() && !p.inDoubt.Load()
			if readOnly || nothingApplied {
				return v, fmt.Errorf("%s: %w: %w", name, ErrUnavailable, ctx.Err())
			}
			return v, fmt.Errorf("%s: %w: %w", name, ErrOutcomeUnknown, ctx.Err())
		}
	}
	if r.err == nil {
		return r.v, nil
	}
	if p.inDoubt.Load() && !errors.Is(r.err, ErrOutcomeUnknown) {
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

// phase decides the race between a caller that gives up and a transaction that
// is about to commit: the first one wins.
type phase struct {
	state   atomic.Int32
	inDoubt atomic.Bool // an earlier attempt may have been applied
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

// prepareRetry undoes commit before another attempt. inDoubt is whether the last
// attempt may have been applied.
func (p *phase) prepareRetry(inDoubt bool) {
	p.inDoubt.Store(inDoubt)
	p.rolledBack()
}

// abandon gives up, and reports whether that was in time: no COMMIT was or will be sent.
func (p *phase) abandon() bool {
	return p.state.CompareAndSwap(running, abandoned) || p.state.Load() == abandoned
}

// modes are the settings with which a transaction begins.
type modes struct {
	readOnly bool
	setup    string // the first message to PostgreSQL
}

// repeat runs fn's transaction until it is committed or another attempt is
// pointless.
func repeat[T any](ctx context.Context, db *DB, p *phase, fn func(*Tx) (T, error), m modes) (v T, err error) {
	// A caller that gives up cancels the running statement but not a COMMIT, because
	// that would make the outcome unknown without need. The deadline cancels both.
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
		v, err = runOnce(work, db, p, conn, tx, fn, m.setup)
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
		opts.Isolation = sql.LevelDefault // SQLite has only serializable
	}
	for retries := db.pool.Stats().OpenConnections; ; retries-- {
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
		if retries <= 0 || !unusable(err) || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("%w: begin: %w", ErrUnavailable, err)
		}
	}
}

// release returns a connection to the pool, or removes it from the pool if drop
// is true.
func release(conn *sqlx.Conn, drop bool) {
	if drop {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	_ = conn.Close() // fails only if it is closed already
}

// runOnce runs fn in tx, commits it, and releases conn.
func runOnce[T any](ctx context.Context, db *DB, p *phase, conn *sqlx.Conn, tx *sqlx.Tx, fn func(*Tx) (T, error), setup string) (v T, err error) {
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

// unknown is the error of a COMMIT, or of a message with one statement, whose reply
// was lost.
type unknown struct{ err error }

func (e *unknown) Error() string        { return ErrOutcomeUnknown.Error() + ": " + e.err.Error() }
func (e *unknown) Unwrap() error        { return e.err }
func (e *unknown) Is(target error) bool { return target == ErrOutcomeUnknown }
