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

// acquisition is the state of one request while it acquires its session.
type acquisition struct {
	m         *Manager
	req       Request
	sessionID ID // the one that the client has named, or empty
	pool      pool
	queue     *waitQueue // nil until it waits
	waiter    *waiter
	last      reserveResult // the result of its last reservation
	reserved  bool          // last is set
	attempts  int           // how often it has asked the database as the head of its queue
	answered  bool          // the database has answered, and had no idle session
}

// namedPool returns the pool of requests that name one session by its id.
func namedPool(id ID) pool { return pool{"session", id.String()} }

// acquire calls waitForClaim and observes its result.
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

// waitForClaim claims a session at once if no request waits for the pool, and
// otherwise in the order of the queue.
func (m *Manager) waitForClaim(ctx context.Context, a *acquisition) (c *Claim, err error) {
	if !m.isAccepting() {
		return nil, ErrNotRunning
	}
	wait, cancel := context.WithTimeout(ctx, m.opts.AcquireTimeout)
	defer cancel()
	dbCtx, cancel := keepDeadline(wait)
	defer cancel()
	if !m.queues.hasWaiters(a.pool) {
		if c := a.takeLingering(ctx); c != nil {
			return c, nil
		}
		if c, err := a.claim(ctx, dbCtx, place{}); c != nil || err != nil {
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
		v, head := a.queue.viewAsHead(a.waiter)
		if !head {
			continue
		}
		a.attempts++
		began := m.opts.Now()
		c, err := a.ask(ctx, dbCtx, v)
		if err != nil && a.answered && wait.Err() != nil && ctx.Err() == nil {
			return nil, m.unavailable(a.timeoutReason()) // the timeout came while it asked once more
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

// leaveQueue removes a request from its queue, and from the queue of all replicas.
func (m *Manager) leaveQueue(q *waitQueue, w *waiter, c *Claim) {
	if !q.leave(w, c != nil, c != nil && !c.handedOver) {
		return
	}
	m.background(func(ctx context.Context) {
		ctx, cancel := m.detached(ctx)
		defer cancel()
		if err := m.store.leaveQueue(ctx, q.id); err != nil {
			m.opts.Logger.Debug("place in the queue of all replicas not removed, it expires", "error", err)
		}
	})
}

// ask claims an idle session, or starts opens if they are worth their price. The
// statements run under dbCtx, which the end of the request does not cancel.
func (a *acquisition) ask(ctx, dbCtx context.Context, v headView) (*Claim, error) {
	if c := a.takeLingering(ctx); c != nil {
		return c, nil
	}
	a.queue.notePlace()
	p := place{id: a.queue.id, waited: v.waited, next: v.next, omit: a.queue.omit}
	// While it is paused, a queue only claims. But after an open has failed, it reserves
	// once, to find out whether there is anything left to wait for.
	if a.sessionID != "" || v.paused && v.failed == nil {
		return a.claim(ctx, dbCtx, p)
	}
	return a.reserve(ctx, dbCtx, v, p)
}

// takeLingering calls Manager.takeLingering. But a session that the client has named
// must be claimed in the database, which knows whose it is, so it is only released here.
func (a *acquisition) takeLingering(ctx context.Context) *Claim {
	if a.sessionID != "" {
		a.m.recall(ctx, func(r *row) bool { return r.SessionID.String == a.sessionID.String() })
		return nil
	}
	return a.m.takeLingering(ctx, a.pool, a.req, a.hasPaid())
}

// claim claims an idle session, or returns nil if there is none.
func (a *acquisition) claim(ctx, dbCtx context.Context, p place) (*Claim, error) {
	m := a.m
	c := claimRequest{pool: a.pool, token: rand.Text(), margin: m.margin(a.req.Duration), place: p}
	sentAt := m.opts.Now()
	var r *row
	var err error
	if a.sessionID != "" {
		c.margin = m.opts.Margin
		r, err = m.store.claimNamed(dbCtx, a.req.UserID, a.sessionID, m.opts.Shared, c)
	} else {
		claim := m.store.claim
		if a.queue == nil {
			claim = m.claims.claim
		}
		r, err = m.claimAny(dbCtx, claim, c, a.req)
	}
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		m.undo(reserveRequest{claimRequest: c, named: a.sessionID})
		return nil, nil
	case r == nil:
		return nil, err
	}
	return m.claimed(ctx, r, a.req, lease{r.ID, c.token}, sentAt, a.hasPaid())
}

// claimAny claims an idle session of a pool by means of claim. It prefers sessions whose
// provider has not lately failed for this user, or for several users.
func (m *Manager) claimAny(ctx context.Context, claim func(context.Context, claimRequest) (*row, error), c claimRequest, req Request) (*row, error) {
	if req.OmitProvider != "" {
		c.omit = []string{req.OmitProvider}
	}
	if avoided := m.providers.avoided(req.UserID); len(avoided) > 0 {
		preferred := c
		preferred.omit = slices.Concat(avoided, c.omit)
		if r, err := claim(ctx, preferred); r != nil || err != nil {
			return r, err
		}
	}
	return claim(ctx, c)
}

// reserve claims an idle session, or starts the opens that the queue needs.
func (a *acquisition) reserve(ctx, dbCtx context.Context, v headView, p place) (*Claim, error) {
	m := a.m
	sentAt := m.opts.Now()
	r := reserveRequest{claimRequest: claimRequest{pool: a.pool, token: rand.Text(), margin: m.margin(a.req.Duration), place: p},
		user: a.req.UserID, omitProvider: a.req.OmitProvider, duration: a.req.Duration, purpose: purposeRequest, inUseMayLinger: v.inUseMayLinger}
	if r.omitProvider != "" {
		r.omit = []string{r.omitProvider}
	}
	if !v.paused {
		r.demand = &demand{waiting: v.waiting, unpaid: v.unpaid, ending: v.ending + m.leases.countReleasing(a.pool),
			hold: m.typicalHold.load(), open: m.typicalOpen(), stalled: v.stalled}
	}
	m.opts.failpoint("before-intent")
	res, err := m.reserve(dbCtx, &r)
	if errors.Is(err, sqldb.ErrOutcomeUnknown) {
		m.undo(r)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.opts.failpoint("after-intent")
	if res.claimed != nil {
		return m.claimed(ctx, res.claimed, a.req, lease{res.claimed.ID, r.token}, sentAt, a.hasPaid())
	}
	a.last, a.reserved = res, true
	a.queue.noteLive(res.Live > 0)
	m.openAll(r, res.opens, sentAt, a.queue)
	// Sessions that only linger in another replica may have used up the user's places.
	refusedTooEarly := r.inUseMayLinger && res.refused != nil && res.refused.Limit == LimitSessions
	if res.capped && !refusedTooEarly {
		a.queue.pauseOpens()
	}
	switch {
	case len(res.opens) > 0 || res.Live+res.Opening > 0: // something to wait for
	case v.failed != nil:
		a.queue.fail(v.failed)
	case res.Stuck > 0:
		a.queue.fail(errStuck)
	case res.refused != nil && !refusedTooEarly:
		a.queue.fail(res.refused)
	}
	return nil, nil
}

// errStuck is why a queue fails that waits for an open of unknown outcome, while the node
// does not answer what became of it.
var errStuck = fmt.Errorf("%w: the outcome of an open cannot be found out", ErrUnavailable)

// giveUp returns an error if a request should not wait any longer: for
// ReconcileTimeout it could only wait for an open of unknown outcome, or the open that it
// has perhaps paid for has led to no session. The request must come back later, because
// it must not pay twice.
func (a *acquisition) giveUp(v headView) error {
	if !a.reserved {
		return nil
	}
	canWait := a.last.Live+a.last.Opening+len(a.last.opens) > 0
	paidInVain := v.headPaid && v.failed == nil
	hopeless := !canWait && (a.last.Unknown > 0 || paidInVain)
	since, seenBefore := a.queue.noteHopeless(hopeless)
	switch {
	case !hopeless || !seenBefore: // the first time, the row may be between two writes
		return nil
	case a.last.Unknown == 0, a.m.opts.Now().Sub(later(since, a.waiter.joined)) >= a.m.opts.ReconcileTimeout:
		return a.m.unavailable(ErrOpening)
	}
	return nil
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// pause returns how long to wait before the next attempt, because other replicas
// release sessions without a signal. If the database answers within a second, the
// attempts take at most half of the time.
func (a *acquisition) pause(lastTook time.Duration) time.Duration {
	return max(min(lastTook, time.Second), retry.Jitter(min(time.Duration(a.attempts*a.attempts)*25*time.Millisecond, 150*time.Millisecond)))
}

// timeoutReason returns the reason for a request that has waited for AcquireTimeout.
func (a *acquisition) timeoutReason() error {
	if a.sessionID != "" || a.queue.hasLive() {
		return ErrBusy
	}
	return ErrOpening
}

// reserve calls store.reserve after it has filled in the ceiling and the ids. The caller
// needs the ids to undo the reservation if its outcome is unknown.
func (m *Manager) reserve(ctx context.Context, r *reserveRequest) (reserveResult, error) {
	if r.user != "" && m.opts.MaxPerUser > 0 { // a session that lingers here would count as in use
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

// undo reverts, in the background, what a statement of unknown outcome may have done.
// If that fails, the leases end by themselves.
func (m *Manager) undo(r reserveRequest) {
	m.background(func(ctx context.Context) {
		m.write(ctx, "undo", func(ctx context.Context) error { return m.store.undo(ctx, r) })
		m.queues.wake(r.pool, nil)
	})
}

// hasPaid reports whether the node was asked to open a session for the request.
func (a *acquisition) hasPaid() bool { return a.queue != nil && a.queue.isPaid(a.waiter) }

// newClaim returns a claim without a session, with its contexts.
func (m *Manager) newClaim(ctx context.Context, req Request, paid bool) *Claim {
	c := &Claim{m: m, req: req, paid: paid}
	c.leaseCtx, c.endLease = context.WithCancelCause(context.WithoutCancel(ctx))
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// claimed returns a claim of a row that a statement sent at sentAt has leased. If the
// request has ended or Run is ending, it releases the row and returns an error.
func (m *Manager) claimed(ctx context.Context, r *row, req Request, l lease, sentAt time.Time, paid bool) (*Claim, error) {
	c := m.newClaim(ctx, req, paid)
	c.row, c.lease, c.begun = r, l, m.opts.Now()
	m.leases.addSession(l, sentAt, c.lose, r, m.mayLinger(r))
	err := ctx.Err()
	if err == nil && !m.isAccepting() {
		err = ErrNotRunning
	}
	if err != nil {
		c.once.Do(func() { c.end(false) })
		return nil, err
	}
	return c, nil
}

// queueError returns the error of a request whose queue has failed with err.
func (m *Manager) queueError(err error) error {
	if b, ok := errors.AsType[*BudgetError](err); ok {
		return b
	}
	return m.unavailable(err)
}
