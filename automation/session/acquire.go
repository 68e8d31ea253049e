package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// acquisition is one request's way to its session.
type acquisition struct {
	m         *Manager
	req       Request
	sessionID ID // that the client named, or empty
	pool      pool
	queue     *waitQueue
	waiter    *waiter
	last      reserveResult // of its last reservation
	reserved  bool          // there was one
	attempts  int           // how often it has asked as the head of its queue
	answered  bool          // the database has said that there is nothing idle
}

// namedPool is the pool of one session, for those who ask for it by its id.
func namedPool(id ID) pool { return pool{"session", id.String()} }

// acquire is waitForClaim, observed.
func (m *Manager) acquire(ctx context.Context, a *acquisition) (*Claim, error) {
	begun := m.opts.Now()
	c, err := m.waitForClaim(ctx, a)
	e := Event{Kind: Acquired, Result: "idle", Took: m.opts.Now().Sub(begun)}
	switch {
	case err != nil:
		e.Result = failureResult(err)
	case a.queue != nil:
		e.Result = "waited"
	}
	m.opts.Observe(e)
	return c, err
}

// waitForClaim claims at once where nobody waits, and in the queue's order
// otherwise.
func (m *Manager) waitForClaim(ctx context.Context, a *acquisition) (c *Claim, err error) {
	if !m.accepting() {
		return nil, ErrNotRunning
	}
	wait, cancel := context.WithTimeout(ctx, m.opts.AcquireTimeout)
	defer cancel()
	database, cancel := withReadDeadline(wait)
	defer cancel()
	if !m.queues.hasWaiters(a.pool) {
		if c := a.takeLingering(ctx); c != nil {
			return c, nil
		}
		if c, err := a.claim(ctx, database, place{}); c != nil || err != nil {
			return c, err
		}
	}
	a.queue, a.waiter = m.queues.join(a.pool, a.req.UserID, a.req.OmitProvider)
	defer func() { m.leaveQueue(a.queue, a.waiter, c) }()
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-a.waiter.wake:
		case <-poll.C:
		case err := <-a.waiter.failed:
			return nil, m.queueError(err)
		case <-m.ending:
			return nil, ErrNotRunning
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, m.unavailable(a.timeoutReason())
		}
		v, head := a.queue.isHead(a.waiter)
		if !head {
			continue
		}
		a.attempts++
		began := m.opts.Now()
		c, err := a.ask(ctx, database, v)
		if err != nil && a.answered && wait.Err() != nil && ctx.Err() == nil {
			return nil, m.unavailable(a.timeoutReason()) // time was up while it asked once more
		}
		if c == nil && err == nil {
			err = a.giveUp(v)
		}
		if c != nil || err != nil {
			return c, err
		}
		a.answered = true
		a.queue.noteAnswer()
		poll.Reset(a.pause(m.opts.Now().Sub(began)))
	}
}

// leaveQueue takes a request out of its queue, and out of that of all replicas.
func (m *Manager) leaveQueue(q *waitQueue, w *waiter, c *Claim) {
	if !q.leave(w, c != nil, c != nil && !c.handedOver) {
		return
	}
	m.background(func(ctx context.Context) {
		ctx, cancel := m.detached(ctx)
		defer cancel()
		if err := m.store.leaveQueue(ctx, q.id); err != nil {
			m.opts.Logger.Debug("place in the queue not given up, it ends by itself", "error", err)
		}
	})
}

// ask looks for an idle session, and has one opened where that is worthwhile.
func (a *acquisition) ask(ctx, database context.Context, v headView) (*Claim, error) {
	if c := a.takeLingering(ctx); c != nil {
		return c, nil
	}
	a.queue.notePlace()
	p := place{id: a.queue.id, waited: v.waited, next: v.next, omit: a.queue.omit}
	if a.sessionID != "" || v.paused && v.failed == nil {
		return a.claim(ctx, database, p)
	}
	return a.reserve(ctx, database, v, p)
}

// takeLingering is the Manager's. A session that the client named is claimed in the
// database, which knows whose it is.
func (a *acquisition) takeLingering(ctx context.Context) *Claim {
	if a.sessionID != "" {
		a.m.recall(ctx, func(r *row) bool { return r.SessionID.String == a.sessionID.String() })
		return nil
	}
	return a.m.takeLingering(ctx, a.pool, a.req, a.hasPaid())
}

// claim takes an idle session, where there is one.
func (a *acquisition) claim(ctx, database context.Context, p place) (*Claim, error) {
	m := a.m
	c := claimRequest{pool: a.pool, token: rand.Text(), margin: m.margin(a.req.Duration), place: p}
	asked := m.opts.Now()
	var r *row
	var err error
	if a.sessionID != "" {
		c.margin = m.opts.Margin
		r, err = m.store.claimNamed(database, a.req.UserID, a.sessionID, m.opts.Shared, c)
	} else {
		claim := m.store.claim
		if a.queue == nil {
			claim = m.claims.claim
		}
		r, err = m.claimAny(database, claim, c, a.req)
	}
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		m.undo(reserveRequest{claimRequest: c, named: a.sessionID})
		return nil, nil
	case r == nil:
		return nil, err
	}
	return m.claimed(ctx, r, a.req, lease{r.ID, c.token}, asked, a.hasPaid())
}

// claimAny takes an idle session of a pool, one whose provider works before
// one whose provider has lately failed for this user or for several.
func (m *Manager) claimAny(ctx context.Context, claim func(context.Context, claimRequest) (*row, error), c claimRequest, req Request) (*row, error) {
	if req.OmitProvider != "" {
		c.omit = []string{req.OmitProvider}
	}
	if avoided := m.providers.avoided(req.UserID); len(avoided) > 0 {
		first := c
		first.omit = slices.Concat(avoided, c.omit)
		if r, err := claim(ctx, first); r != nil || err != nil {
			return r, err
		}
	}
	return claim(ctx, c)
}

// reserve claims what is idle, or has opened what the queue needs.
func (a *acquisition) reserve(ctx, database context.Context, v headView, p place) (*Claim, error) {
	m := a.m
	asked := m.opts.Now()
	r := reserveRequest{claimRequest: claimRequest{pool: a.pool, token: rand.Text(), margin: m.margin(a.req.Duration), place: p},
		user: a.req.UserID, omitProvider: a.req.OmitProvider, duration: a.req.Duration, purpose: purposeRequest, inUseMayLinger: v.inUseMayLinger}
	if r.omitProvider != "" {
		r.omit = []string{r.omitProvider}
	}
	if !v.paused {
		r.demand = &demand{waiting: v.waiting, unpaid: v.unpaid, ending: v.ending + m.leases.countReleasing(a.pool), hold: m.typical.load(), open: m.typicalOpen(), stalled: v.stalled}
	}
	m.opts.failpoint("before-intent")
	res, err := m.reserve(database, &r)
	if errors.Is(err, sqldb.ErrOutcomeUnknown) {
		m.undo(r)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.opts.failpoint("after-intent")
	if res.claimed != nil {
		return m.claimed(ctx, res.claimed, a.req, lease{res.claimed.ID, r.token}, asked, a.hasPaid())
	}
	a.last, a.reserved = res, true
	a.queue.noteLive(res.Live > 0)
	m.openAll(r, res.opens, asked, a.queue)
	inUse := r.inUseMayLinger && res.refused != nil && res.refused.Limit == LimitSessions // by sessions that may be idle soon
	if res.capped && !inUse {
		a.queue.pauseOpens()
	}
	switch {
	case len(res.opens) > 0 || res.Live+res.Opening > 0: // something to wait for
	case v.failed != nil:
		a.queue.fail(v.failed)
	case res.Stuck > 0:
		a.queue.fail(errStuck)
	case res.refused != nil && !inUse:
		a.queue.fail(res.refused)
	}
	return nil, nil
}

var errStuck = fmt.Errorf("%w: it cannot be asked what became of an open", ErrUnavailable)

// giveUp returns why a request should wait no longer: its only hope has been
// an open of unknown outcome for ReconcileTimeout, or the open for which it has
// perhaps paid came to nothing. It is told to come back, and pays no second time.
func (a *acquisition) giveUp(v headView) error {
	if !a.reserved {
		return nil
	}
	hopeless := a.last.Live+a.last.Opening+len(a.last.opens) == 0 && (a.last.Unknown > 0 || v.headPaid && v.failed == nil)
	since, again := a.queue.noteHopeless(hopeless)
	switch {
	case !hopeless || !again: // what was seen once may be a moment between two writes
		return nil
	case a.last.Unknown == 0, a.m.opts.Now().Sub(later(since, a.waiter.joined)) >= a.m.opts.ReconcileTimeout:
		return a.m.unavailable(ErrOpening)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// pause is how long to wait before the next attempt: other replicas release
// sessions without a signal. A database that answers within a second is asked for
// half of the time at most.
func (a *acquisition) pause(lastTook time.Duration) time.Duration {
	return max(min(lastTook, time.Second), retry.Jitter(min(time.Duration(a.attempts*a.attempts)*25*time.Millisecond, 150*time.Millisecond)))
}

// timeoutReason is what a request that has waited in vain is told.
func (a *acquisition) timeoutReason() error {
	if a.sessionID != "" || a.queue.hasLive() {
		return ErrBusy
	}
	return ErrOpening
}

func (m *Manager) reserve(ctx context.Context, r *reserveRequest) (reserveResult, error) {
	if r.user != "" && m.opts.MaxPerUser > 0 { // what lingers here would count as in use
		m.recall(ctx, func(o *row) bool { return o.UserID == r.user })
	}
	if m.opts.MaxOpen > 0 {
		if err := m.budget.acquire(ctx); err != nil {
			return reserveResult{}, m.unavailable(ErrOpening)
		}
		defer m.budget.release()
	}
	r.ceiling = m.ceilingOf(r.model)
	r.ids = newIntents(r.demand, r.purpose)
	return m.store.reserve(ctx, *r, m.limits())
}

// undo takes back what a statement whose outcome is unknown may have done.
// What it cannot take back ends with its lease.
func (m *Manager) undo(r reserveRequest) {
	m.background(func(ctx context.Context) {
		m.write(ctx, "undo", func(ctx context.Context) error { return m.store.undo(ctx, r) })
		m.queues.wake(r.pool, nil)
	})
}

// hasPaid reports whether the node was asked to open a session for the request.
func (a *acquisition) hasPaid() bool { return a.queue != nil && a.queue.isPaid(a.waiter) }

func (m *Manager) newClaim(ctx context.Context, req Request, paid bool) *Claim {
	c := &Claim{m: m, req: req, paid: paid}
	c.leaseCtx, c.endLease = context.WithCancelCause(context.WithoutCancel(ctx))
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// claimed makes a Claim of a row that was leased at asked.
func (m *Manager) claimed(ctx context.Context, r *row, req Request, l lease, asked time.Time, paid bool) (*Claim, error) {
	c := m.newClaim(ctx, req, paid)
	c.row, c.lease, c.begun = r, l, m.opts.Now()
	m.leases.addSession(l, asked, c.lose, r, m.mayLinger(r))
	err := ctx.Err()
	if err == nil && !m.accepting() {
		err = ErrNotRunning
	}
	if err != nil {
		c.once.Do(func() { c.end(false) })
		return nil, err
	}
	return c, nil
}

// queueError is what a request is told whose queue has come to nothing.
func (m *Manager) queueError(err error) error {
	if b, ok := errors.AsType[*BudgetError](err); ok {
		return b
	}
	return m.unavailable(err)
}
