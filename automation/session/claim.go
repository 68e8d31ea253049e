package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Claim is the sole use of one paid session, for one request. Its holder
// must call Release or ReleaseBusy, however the request ends.
type Claim struct {
	m          *Manager
	row        *row
	req        Request // as it was made; without a model where the client named the session
	lease      lease
	begun      time.Time       // without the wait for the database, which another session would not shorten
	paid       bool            // the node was asked to open a session for the request
	handedOver bool            // its lease comes from a request of this replica, not from the database
	ctx        context.Context //nolint:containedctx // it is what the claim is about
	cancel     context.CancelCauseFunc
	leaseCtx   context.Context //nolint:containedctx // it is what the claim is about
	endLease   context.CancelCauseFunc
	once       sync.Once
	released   atomic.Bool
}

// SessionID is the session's id on the chain.
func (c *Claim) SessionID() string { return c.row.SessionID.String }

// ModelID is the id of the session's model.
func (c *Claim) ModelID() string { return c.row.ModelID }

// Provider is the address of the session's provider, or "" where unknown.
func (c *Claim) Provider() string { return c.row.Provider }

// EndsAt is the session's end on the chain.
func (c *Claim) EndsAt() time.Time { return c.row.EndsAt.Time }

// Context ends with the request's own, and with the cause ErrLeaseLost when
// this replica could not extend its lease. Work with the session must stop
// with it: another request may hold the session from then on.
func (c *Claim) Context() context.Context { return c.ctx }

// LeaseContext is [Claim.Context] for work that continues after the request has
// ended, such as reading the rest of the node's answer: it ends with the lease
// alone, and with the claim.
func (c *Claim) LeaseContext() context.Context { return c.leaseCtx }

// PrepareRelease announces that Release follows at once, before the client has
// the last of its answer: for five seconds, requests that come to this replica
// meanwhile wait for the session and have no other one opened in its place.
func (c *Claim) PrepareRelease() { c.m.queues.beginRelease(c.row.pool(), c) }

// Release gives the session back, with which the node is done. It works once, and
// waits for the database at most five seconds, whatever became of the request's context;
// where that is too short, it is tried again until the lease ends by itself. It waits
// for nothing where the session may linger, or this replica alone has used it lately.
func (c *Claim) Release() {
	c.once.Do(func() {
		c.m.typical.observe(c.m.opts.Now().Sub(c.begun))
		c.end(false)
	})
}

// ReleaseBusy is Release where the node may still be working for the request:
// the session serves nobody for Options.CoolDown.
func (c *Claim) ReleaseBusy() {
	c.once.Do(func() {
		c.m.opts.Observe(Event{Kind: CooledDown})
		c.end(true)
	})
}

// end ends the work under the claim before another request can have its lease.
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

// lose ends the claim's contexts.
func (c *Claim) lose(cause error) {
	c.endLease(cause)
	c.cancel(cause)
}

// wake lets the requests ask again that a session could serve.
func (m *Manager) wake(r *row) {
	m.queues.wake(r.pool(), nil)
	m.queues.wake(namedPool(ID(r.SessionID.String)), nil)
}

// MarkExpired takes the session out of service because it has ended, though its
// row says otherwise: no other request gets it. The claim must still be released.
func (c *Claim) MarkExpired() error { return c.retire(reasonExpired) }

func (c *Claim) retire(reason string) error {
	if c.released.Load() {
		return nil // another request may have the lease by now
	}
	c.m.leases.forbidHandOver(func(r *row) bool { return r.ID == c.row.ID })
	ctx, cancel := c.m.detached(c.leaseCtx)
	defer cancel()
	c.m.opts.Observe(Event{Kind: Retired, Result: reason})
	c.m.opts.Logger.Info("session retired", "session_id", c.SessionID(), "model_id", c.ModelID(), "reason", reason)
	return c.m.store.retire(ctx, c.lease, reason)
}

// ReportFailure notes that the session's provider failed for this user, who is
// given other providers' sessions first for some minutes. One that has failed
// for several users is avoided for all, by all replicas.
func (c *Claim) ReportFailure() error {
	if c.Provider() == "" {
		return nil
	}
	c.m.providers.add(c.Provider(), c.req.UserID)
	ctx, cancel := c.m.detached(c.leaseCtx)
	defer cancel()
	err := c.m.store.providerFailed(ctx, c.Provider(), c.req.UserID)
	c.m.providers.add(c.Provider(), c.req.UserID) // a reading may have begun meanwhile
	return err
}

// detached is a context for what must be written though its request has ended.
func (m *Manager) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), m.opts.sqlTimeout)
}

// withReadDeadline is a context with the deadline of ctx and without its
// cancellation: a client that leaves must not make a statement's outcome unknown.
func withReadDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(detached, deadline)
	}
	return detached, func() {}
}
