package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Verify asks the chain about the session, which costs nothing. It returns nil
// where the session is open, and ErrEnded where its end has passed, it was
// closed before, or the chain does not know it. Any other error says that the
// node cannot tell, and nothing should be concluded.
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

// Replacement says what is to take a session's place.
type Replacement struct {
	// AnotherProvider asks for a session of another provider than the present one's.
	AnotherProvider bool
}

// Replace claims another session of the same user and model for a request whose
// session does not work: an idle one, or else one that is opened for it, which
// is not charged to the user but has limits of its own. The old claim is held
// meanwhile; its holder retires and releases it once it has the new one.
//
// Errors are *BudgetError, *UnavailableError, ErrNotRunning, the context's, the
// database's, or say that the request has caused an open already, or that the
// node chooses no other provider. The old claim is then all that the request has.
func (m *Manager) Replace(ctx context.Context, old *Claim, r Replacement) (*Claim, error) {
	c, paid, err := m.replace(ctx, old, r)
	e := Event{Kind: Replaced, Result: "idle"}
	switch {
	case err != nil:
		e.Result = failureResult(err)
	case paid:
		e.Result = "opened"
	}
	m.opts.Observe(e)
	return c, err
}

func (m *Manager) replace(ctx context.Context, old *Claim, r Replacement) (c *Claim, paid bool, err error) {
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

// claimIdle takes an idle session of a pool for a request that does not wait.
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

// openReplacement has one session opened and claims it. Whatever becomes of it
// is the pool's: a request that cannot wait for it leaves it to the next.
func (m *Manager) openReplacement(ctx context.Context, p pool, req Request, old *Claim) (*Claim, error) {
	r := reserveRequest{claimRequest: claimRequest{pool: p}, user: old.row.UserID, omitProvider: req.OmitProvider,
		duration: req.Duration, purpose: purposeReplacement, replaces: old.row.ID}
	if r.user == "" {
		r.user = req.UserID
	}
	if r.omitProvider != "" {
		r.omit = []string{r.omitProvider}
	}
	work := &soloOpen{needed: func(context.Context) bool { return ctx.Err() == nil }, result: make(chan error, 1)}
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
			m.openAll(r, res.opens, sentAt, work)
			// Without an intent there is an idle session, which may be another
			// request's a moment later, or a successor, which is waited for as well.
			reserved = len(res.opens) > 0 || res.Idle == 0 && res.refused == nil
		}
		select {
		case err := <-work.result:
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
		// Looked at last: the session may have been opened since the search for it began.
		old.paid = old.paid || work.called.Load()
		if c != nil {
			c.paid = old.paid
		}
		if c != nil || err != nil {
			return c, err
		}
	}
}
