package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Claim is one request's exclusive use of a paid session. Its holder must call
// Release or ReleaseBusy, however the request ends.
type Claim struct {
	m          *Manager
	row        *row
	req        Request // without a model if the client has named the session
	lease      lease
	begun      time.Time       // after the wait for the database, which another session would not shorten
	paid       bool            // the node was asked to open a session for the request
	handedOver bool            // a request of this replica handed over the lease; the database was not asked
	ctx        context.Context //nolint:containedctx // the claim's purpose is to end it with the lease
	cancel     context.CancelCauseFunc
	leaseCtx   context.Context //nolint:containedctx // likewise
	endLease   context.CancelCauseFunc
	once       sync.Once
	released   atomic.Bool
}

// SessionID returns the session's id on the chain.
func (c *Claim) SessionID() string { return c.row.SessionID.String }

// ModelID returns the id of the session's model.
func (c *Claim) ModelID() string { return c.row.ModelID }

// Provider returns the address of the session's provider, or "" if it is unknown.
func (c *Claim) Provider() string { return c.row.Provider }

// EndsAt returns the session's end on the chain.
func (c *Claim) EndsAt() time.Time { return c.row.EndsAt.Time }

// Context returns a context that ends with the request's own context, and with the
// cause ErrLeaseLost when this replica could not extend the lease. All work with the
// session must stop with it, because another request may hold the session from then on.
func (c *Claim) Context() context.Context { return c.ctx }

// LeaseContext returns a context for work that continues after the request has ended,
// such as reading the rest of the node's answer. Unlike [Claim.Context] it does not end
// with the request's context, but only with the lease or the claim.
func (c *Claim) LeaseContext() context.Context { return c.leaseCtx }

// PrepareRelease announces that Release follows soon. It is called before the client
// receives the end of its answer. For up to five seconds, requests that come to this
// replica then wait for the session and have no other one opened.
func (c *Claim) PrepareRelease() { c.m.queues.beginRelease(c.row.pool(), c) }

// Release releases the session after the node has finished with it. Only the first call
// of Release or ReleaseBusy has an effect. Release waits up to five seconds for the
// database, even if the request's context has ended. If that is too short, the background
// repeats the release until the lease ends by itself. Release does not wait if the
// session lingers, or if no other replica has used it lately.
func (c *Claim) Release() {
	c.once.Do(func() {
		c.m.typicalHold.observe(c.m.opts.Now().Sub(c.begun))
		c.end(false)
	})
}

// ReleaseBusy is Release for a session whose node may still be working for the request:
// it serves nobody for Options.CoolDown.
func (c *Claim) ReleaseBusy() {
	c.once.Do(func() {
		c.m.opts.Observe(Event{Kind: CooledDown})
		c.end(true)
	})
}

// end ends the claim's contexts before its use of the lease, so that no other request can
// use the session while the claim's work still runs.
func (c *Claim) end(busy bool) {
	c.released.Store(true)
	c.lose(context.Canceled)
	lingers, released := c.m.leases.end(c.lease, busy)
	c.m.queues.endRelease(c.row.pool(), c)
	if lingers {
		c.m.wake(c.row)
		return
	}
	if c.m.leases.haveLoopsEnded() {
		c.m.releaseDue(c.leaseCtx)
		return
	}
	if released == nil {
		return
	}
	timeout := time.NewTimer(c.m.opts.sqlTimeout)
	defer timeout.Stop()
	select {
	case <-released:
	case <-timeout.C:
	}
}

// lose ends the claim's contexts with a cause.
func (c *Claim) lose(cause error) {
	c.endLease(cause)
	c.cancel(cause)
}

// wake lets the waiting requests that a session could serve ask the database again.
func (m *Manager) wake(r *row) {
	m.queues.wake(r.pool(), nil)
	m.queues.wake(namedPool(ID(r.SessionID.String)), nil)
}

// MarkExpired takes the session out of service because it has ended, although its row
// says otherwise. No other request gets it. The claim must still be released. It waits up
// to five seconds for the database, and returns the database's error.
func (c *Claim) MarkExpired() error {
	if c.released.Load() {
		return nil // another request may have the lease by now
	}
	c.m.leases.forbidHandOver(func(r *row) bool { return r.ID == c.row.ID })
	ctx, cancel := c.m.detached(c.leaseCtx)
	defer cancel()
	c.m.opts.Observe(Event{Kind: Retired, Result: reasonExpired})
	c.m.opts.Logger.Info("session retired", "session_id", c.SessionID(), "model_id", c.ModelID(), "reason", reasonExpired)
	return c.m.store.retire(ctx, c.lease, reasonExpired)
}

// ReportFailure records that the session's provider failed for this user. For five
// minutes the user gets other providers' sessions first. A provider that has failed for
// three users is avoided for all users, by all replicas. It waits up to five seconds for
// the database, and returns the database's error.
func (c *Claim) ReportFailure() error {
	if c.Provider() == "" {
		return nil
	}
	c.m.providers.add(c.Provider(), c.req.UserID)
	ctx, cancel := c.m.detached(c.leaseCtx)
	defer cancel()
	err := c.m.store.providerFailed(ctx, c.Provider(), c.req.UserID)
	c.m.providers.add(c.Provider(), c.req.UserID) // again, because a read may have begun meanwhile
	return err
}

// detached returns a context for a write that must happen although its request has
// ended.
func (m *Manager) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), m.opts.sqlTimeout)
}

// keepDeadline returns a context with the deadline of ctx and without its
// cancellation: a client that leaves must not make a statement's outcome unknown.
func keepDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(detached, deadline)
	}
	return detached, func() {}
}
