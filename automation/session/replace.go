package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Verify asks the chain whether the session is open, which costs nothing. It returns nil
// if it is, and ErrEnded if its end has passed, it was closed, or the chain does not know
// it. Any other error means that the node could not answer, and says nothing about the
// session.
func (c *Claim) Verify(ctx context.Context) error {
	s, err := c.m.get(ctx, c.SessionID())
	switch {
	case errors.Is(err, ErrSessionNotFound):
		return fmt.Errorf("%w: the chain does not know it", ErrEnded)
	case err != nil:
		return err
	case !s.ClosedAt.IsZero():
		return fmt.Errorf("%w: it was closed", ErrEnded)
	case !s.EndsAt.IsZero() && !c.m.opts.Now().Before(s.EndsAt):
		return fmt.Errorf("%w: its end has passed", ErrEnded)
	}
	return nil
}

// Replacement says which session is wanted in the place of another.
type Replacement struct {
	// AnotherProvider asks for a session of another provider.
	AnotherProvider bool
}

// Replace claims another session of the same user and model for a request whose session
// does not work. It claims an idle session, or else opens one, which is not charged to the
// user but has limits of its own. The old claim stays valid; its holder must still release
// it.
//
// The error is a *BudgetError, an *UnavailableError, ErrNotRunning, the context's or the
// database's. Other errors say that the request has already caused an open, or that the
// node cannot be made to choose another provider.
func (m *Manager) Replace(ctx context.Context, old *Claim, r Replacement) (*Claim, error) {
	c, opened, err := m.replace(ctx, old, r)
	e := Event{Kind: Replaced, Result: "idle"}
	switch {
	case err != nil:
		e.Result = failureResult(err)
	case opened:
		e.Result = "opened"
	}
	m.opts.Observe(e)
	return c, err
}

// replace is Replace. It also reports whether the claim needed an open.
func (m *Manager) replace(ctx context.Context, old *Claim, r Replacement) (c *Claim, opened bool, err error) {
	if !m.isAccepting() {
		return nil, false, ErrNotRunning
	}
	req := old.req
	req.ModelID = old.row.ModelID
	if req.Duration == 0 {
		req.Duration = old.row.chosen()
	}
	if r.AnotherProvider {
		req.OmitProvider = old.row.Provider
	}
	p := pool{old.row.OwnerID, old.row.ModelID}
	if c, err := m.claimIdle(ctx, p, req, old.paid); c != nil || err != nil {
		return c, false, err
	}
	switch {
	case old.paid:
		return nil, false, errPaid
	case r.AnotherProvider && (req.OmitProvider == "" || m.ignoresOmission()):
		return nil, false, errNoOtherProvider
	}
	c, err = m.openReplacement(ctx, p, req, old)
	return c, true, err
}

// claimIdle claims an idle session of a pool, or returns nil if there is none.
func (m *Manager) claimIdle(ctx context.Context, p pool, req Request, paid bool) (*Claim, error) {
	dbCtx, cancel := keepDeadline(ctx)
	defer cancel()
	if c := m.takeLingering(ctx, p, req, paid); c != nil {
		return c, nil
	}
	m.opts.failpoint("before-claim")
	sentAt := m.opts.Now()
	c := claimRequest{pool: p, token: rand.Text(), margin: m.margin(req.Duration)}
	r, err := m.claimAny(dbCtx, m.store.claim, c, req)
	if errors.Is(err, sqldb.ErrOutcomeUnknown) {
		m.undo(reserveRequest{claimRequest: c})
		return nil, nil
	}
	if r == nil || err != nil {
		return nil, err
	}
	return m.claimed(ctx, r, req, lease{r.ID, c.token}, sentAt, paid)
}

// openReplacement opens one session and claims it. If the request stops waiting, the
// session remains in the pool for later requests.
func (m *Manager) openReplacement(ctx context.Context, p pool, req Request, old *Claim) (*Claim, error) {
	r := reserveRequest{claimRequest: claimRequest{pool: p}, user: old.row.UserID, omitProvider: req.OmitProvider,
		duration: req.Duration, purpose: purposeReplacement, replaces: old.row.ID}
	if r.user == "" {
		r.user = req.UserID
	}
	if r.omitProvider != "" {
		r.omit = []string{r.omitProvider}
	}
	opening := &soloOpen{needed: func(context.Context) bool { return ctx.Err() == nil }, result: make(chan error, 1)}
	timeout := time.NewTimer(m.opts.AcquireTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	begun := m.opts.Now()
	for reserved := false; ; {
		if !reserved {
			sentAt := m.opts.Now()
			r.inUseMayLinger = sentAt.Sub(begun) < m.queues.lingerDelay
			r.margin = m.margin(req.Duration)
			res, err := m.reserve(ctx, &r)
			switch {
			case errors.Is(err, sqldb.ErrOutcomeUnknown):
				m.undo(r)
				return nil, m.unavailable(ErrOpening)
			case err != nil:
				return nil, err
			case res.Unknown > 0:
				return nil, m.unavailable(ErrOpening)
			case len(res.opens) == 0 && res.refused != nil && (!r.inUseMayLinger || res.refused.Limit != LimitSessions):
				return nil, res.refused
			}
			m.openAll(r, res.opens, sentAt, opening)
			// Without an intent there is either an idle session or a successor. The
			// successor is waited for. The idle session may go to another request, so
			// this one must be able to reserve again.
			reserved = len(res.opens) > 0 || res.Idle == 0 && res.refused == nil
		}
		select {
		case err := <-opening.result:
			if err != nil {
				return nil, m.unavailable(err)
			}
		case <-poll.C:
		case <-timeout.C:
			return nil, m.unavailable(ErrOpening)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.ending:
			return nil, ErrNotRunning
		}
		c, err := m.claimIdle(ctx, p, req, old.paid)
		// Read after the claim, because the node may have been called meanwhile.
		old.paid = old.paid || opening.called.Load()
		if c != nil {
			c.paid = old.paid
		}
		if c != nil || err != nil {
			return c, err
		}
	}
}
