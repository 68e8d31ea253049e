package session

import (
	"context"
	"sync"
	"time"
)

// A Claim is the sole use of one paid session, for one request. Its holder
// must Release it, however the request ends.
type Claim struct {
	m      *Manager
	row    *row
	lease  lease
	begun  time.Time
	ctx    context.Context //nolint:containedctx // it is what the claim is about
	cancel context.CancelCauseFunc
	once   sync.Once
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

// Release gives the session back. It works once and waits for the database at
// most five seconds, whatever became of the request's context; where that is
// too short, the heartbeats continue trying until the lease ends by itself.
func (c *Claim) Release() {
	c.once.Do(func() {
		c.m.typical.observe(c.m.opts.Now().Sub(c.begun))
		c.release()
	})
}

func (c *Claim) release() {
	ctx, cancel := detached(c.ctx)
	defer cancel()
	if err := c.m.leases.release(ctx, c.lease); err != nil {
		c.m.opts.Logger.Warn("session not released yet", "session_id", c.SessionID(), "lease", c.m.opts.Lease, "error", err)
	}
	c.cancel(context.Canceled)
	c.m.queues.wake(pool{c.row.OwnerID, c.row.ModelID}, nil)
	c.m.queues.wake(namedPool(c.SessionID()), nil)
}

// Expired tells that the node says that the session has ended, though its row
// says otherwise. No other request gets it. The claim must still be released.
func (c *Claim) MarkExpired() error { return c.retire(reasonExpired) }

// Broken tells that the session's provider failed beyond use. No other request
// gets the session. The claim must still be released.
func (c *Claim) MarkBroken() error { return c.retire(reasonBroken) }

func (c *Claim) retire(reason string) error {
	ctx, cancel := detached(c.ctx)
	defer cancel()
	c.m.opts.Observe(Event{Kind: Retired, Result: reason})
	c.m.opts.Logger.Info("session retired", "session_id", c.SessionID(), "model_id", c.ModelID(), "reason", reason)
	return c.m.store.retire(ctx, c.lease, reason)
}

// detached is a context for what must be written though its request has ended.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
}

// withReadDeadline is a context with the deadline of ctx and without its cancellation:
// a client that goes away must not leave a statement's outcome of unknown outcome.
func withReadDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	detached := context.WithoutCancel(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(detached, deadline)
	}
	return detached, func() {}
}
