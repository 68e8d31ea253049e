package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// acquisition is one request's way to its session.
type acquisition struct {
	m         *Manager
	req       Request
	sessionID string // that the client named, or empty
	pool      pool
	queue     *waitQueue
	last      reserveResult // to its last reservation
	reserved  bool          // there was one
	asked     int           // how often it has asked as the first of its line
	answered  bool          // the database has said that there is nothing idle
}

// namedPool is the pool of one session, for those who ask for it by its id.
func namedPool(sessionID string) pool { return pool{"session", sessionID} }

// acquire is waitForClaim, observed.
func (m *Manager) acquire(ctx context.Context, q *acquisition) (*Claim, error) {
	begun := m.opts.Now()
	c, err := m.waitForClaim(ctx, q)
	e := Event{Kind: Acquired, Result: "idle", Took: m.opts.Now().Sub(begun)}
	switch {
	case err != nil:
		e.Result = acquired(err)
	case q.queue != nil:
		e.Result = "waited"
	}
	m.opts.Observe(e)
	return c, err
}

// waitForClaim claims at once where nobody waits, and in the line's order otherwise.
func (m *Manager) waitForClaim(ctx context.Context, q *acquisition) (*Claim, error) {
	if !m.accepting() {
		return nil, ErrNotRunning
	}
	wait, cancel := context.WithTimeout(ctx, m.opts.AcquireTimeout)
	defer cancel()
	database, cancel := withReadDeadline(wait)
	defer cancel()
	if !m.queues.hasWaiters(q.pool) {
		if c, err := q.claim(ctx, database); c != nil || err != nil {
			return c, err
		}
	}
	l, w := m.queues.join(q.pool, q.req.UserID, q.req.OmitProvider)
	defer l.leave(w)
	q.queue = l
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-w.wake:
		case <-poll.C:
		case err := <-w.failed:
			return nil, m.failed(err)
		case <-m.ending:
			return nil, ErrNotRunning
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, m.unavailable(q.timeoutReason())
		}
		leads, wanted, failed := l.isHead(w)
		if !leads {
			continue
		}
		q.asked++
		var c *Claim
		var err error
		if failed == nil && wanted == 0 || q.sessionID != "" {
			c, err = q.claim(ctx, database)
		} else {
			c, err = q.reserve(ctx, database, wanted, failed)
		}
		if err != nil && q.answered && wait.Err() != nil && ctx.Err() == nil {
			return nil, m.unavailable(q.timeoutReason()) // time was up while it asked once more
		}
		if c != nil || err != nil {
			return c, err
		}
		q.answered = true
		poll.Reset(q.pause())
	}
}

// claim takes an idle session, where there is one.
func (q *acquisition) claim(ctx, database context.Context) (*Claim, error) {
	m := q.m
	o := reserveRequest{pool: q.pool, named: q.sessionID, token: rand.Text()}
	asked := m.opts.Now()
	var r *row
	var err error
	if q.sessionID != "" {
		r, err = m.store.claimNamed(database, q.req.UserID, q.sessionID, o.token, m.opts.Shared, m.opts.Margin)
	} else {
		r, err = m.store.claim(database, q.pool, q.req.OmitProvider, o.token, m.margin(q.req.Duration))
	}
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		m.undo(o)
		return nil, nil
	case r == nil:
		return nil, err
	}
	return m.claimed(ctx, r, o.token, asked)
}

// reserve claims what is idle, or has opened what the line needs.
func (q *acquisition) reserve(ctx, database context.Context, wanted int, failed error) (*Claim, error) {
	m := q.m
	asked := m.opts.Now()
	o := reserveRequest{pool: q.pool, user: q.req.UserID, omit: q.req.OmitProvider, duration: q.req.Duration,
		margin: m.margin(q.req.Duration), token: rand.Text()}
	for range min(wanted, 64) {
		o.opens = append(o.opens, lease{rand.Text(), rand.Text()})
	}
	m.opts.failpoint("before-intent")
	a, err := m.reserve(database, o)
	if errors.Is(err, sqldb.ErrOutcomeUnknown) {
		m.undo(o)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.opts.failpoint("after-intent")
	if a.claimed != nil {
		return m.claimed(ctx, a.claimed, o.token, asked)
	}
	q.last, q.reserved = a, true
	o.opens = a.opens
	m.openAll(o, asked, q.queue)
	if a.capped {
		q.queue.capped()
	}
	switch {
	case len(a.opens) > 0 || a.Live+a.Opening > 0: // something to wait for
	case failed != nil:
		q.queue.fail(failed)
	case a.Stuck > 0:
		q.queue.fail(errStuck)
	case a.refused != nil:
		q.queue.fail(a.refused)
	}
	return nil, nil
}

var errStuck = fmt.Errorf("%w: it cannot be asked what became of an open", ErrUnavailable)

// pause is how long to wait for news before asking again: other replicas
// release without a word. Where nothing is open yet, there is little to miss.
func (q *acquisition) pause() time.Duration {
	most := 250 * time.Millisecond
	if q.reserved && q.last.Live == 0 {
		most = time.Second
	}
	return retry.Jitter(min(time.Duration(q.asked*q.asked)*25*time.Millisecond, most))
}

// timeoutReason is what a request that has waited in vain is told.
func (q *acquisition) timeoutReason() error {
	if q.last.Live > 0 || q.sessionID != "" {
		return ErrBusy
	}
	return ErrOpening
}

func (m *Manager) reserve(ctx context.Context, o reserveRequest) (reserveResult, error) {
	if m.opts.MaxOpen > 0 {
		if err := m.budget.take(ctx); err != nil {
			return reserveResult{}, m.unavailable(ErrOpening)
		}
		defer m.budget.give()
	}
	return m.store.reserve(ctx, o, limits{m.opts.MaxPerUser, m.opts.OpensPerHour, m.opts.OpensPerDay, m.opts.MaxOpen})
}

// undo takes back what a statement whose outcome is unknown may have done.
// What it cannot take back ends with its lease.
func (m *Manager) undo(o reserveRequest) {
	m.background(func(ctx context.Context) {
		m.write(ctx, "undo", func(ctx context.Context) error { return m.store.undo(ctx, o) })
		m.queues.wake(o.pool, nil)
	})
}

// claimed makes a Claim of a row that was leased at asked.
func (m *Manager) claimed(ctx context.Context, r *row, token string, asked time.Time) (*Claim, error) {
	c := &Claim{m: m, row: r, lease: lease{r.ID, token}, begun: asked}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	m.leases.add(c.lease, asked, c.cancel)
	err := ctx.Err()
	if err == nil && !m.accepting() {
		err = ErrNotRunning
	}
	if err != nil {
		c.once.Do(c.release)
		return nil, err
	}
	return c, nil
}

// failed is what a request is told whose line has come to nothing.
func (m *Manager) failed(err error) error {
	if b, ok := errors.AsType[*BudgetError](err); ok {
		return b
	}
	return m.unavailable(err)
}
