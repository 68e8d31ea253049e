package session

import (
	"context"
	"sync"
	"time"
)

// A Claim is the sole use of one paid session, for one request. Its holder
// must Release it, however the request ends.
type Claim struct {
	m        *Manager
	row      row
	lease    lease
	pool     pool
	ctx      context.Context
	cancel   context.CancelCauseFunc
	begun    time.Time
	once     sync.Once
	mu       sync.Mutex
	validity time.Time // until when the lease certainly holds, on our clock
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
// most a few seconds, whatever became of the request's context; where it
// fails the lease ends by itself.
func (c *Claim) Release() {
	c.once.Do(func() {
		c.m.drop(c)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), releaseTimeout)
		defer cancel()
		if err := c.m.store.release(ctx, c.lease); err != nil {
			c.m.opts.Logger.Warn("session not released, its lease will end by itself",
				"session_id", c.SessionID(), "lease", c.m.opts.Lease, "error", err)
		}
		c.cancel(context.Canceled)
		c.m.lines.wake(c.pool)
	})
}

// Expired tells that the node says that the session has ended. No other
// request gets it. The claim must still be released.
func (c *Claim) Expired(ctx context.Context) error { return c.retire(ctx, "expired", true) }

// Broken tells that the session's provider failed beyond use. No other request
// gets the session; it is closed after its end, since an earlier close would
// lock its stake for longer. The claim must still be released.
func (c *Claim) Broken(ctx context.Context) error { return c.retire(ctx, "broken", false) }

func (c *Claim) retire(ctx context.Context, reason string, ended bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return c.m.store.retire(ctx, c.lease, reason, ended, c.m.opts.CloseAfter)
}

// releaseTimeout bounds what is written after a request has ended.
const releaseTimeout = 5 * time.Second

func (c *Claim) extend(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.validity = until
}

// check cancels the claim's context if its lease can no longer be relied on.
func (c *Claim) check(now time.Time) (valid bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.validity) {
		return true
	}
	c.cancel(ErrLeaseLost)
	return false
}
