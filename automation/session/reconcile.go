package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// batch is how many rows a statement of the maintenance reads at most.
const batch = 32

// reconcile looks for opens of unknown outcome among the wallet's sessions.
func (m *Manager) reconcile(ctx context.Context) error {
	token, sentAt := rand.Text(), m.opts.Now()
	rows, err := m.store.takeUnresolved(ctx, token, batch)
	if err != nil || len(rows) == 0 {
		return err
	}
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, r := range rows {
		m.leases.add(lease{r.ID, token}, sentAt, cancel)
		defer m.leases.drop(lease{r.ID, token})
	}
	called, errs := m.failUncalled(ctx, token, rows)
	if len(called) == 0 {
		return errors.Join(errs...)
	}
	slices.SortFunc(called, func(a, b row) int { return a.CalledAt.Compare(b.CalledAt.Time) })
	found, err := m.orphans(work, called[0].CalledAt.Time)
	// The writes get a time limit of their own, however long the node has taken.
	write, stop := m.detached(ctx)
	defer stop()
	if err == nil {
		return errors.Join(append(errs, m.adopt(write, token, called, found))...)
	}
	leases := make([]lease, len(called))
	attempts := called[0].Attempts // the smallest
	for i, r := range called {
		leases[i], attempts = lease{r.ID, token}, min(attempts, r.Attempts)
	}
	if !errors.Is(err, errNode) || work.Err() != nil { // not the node's fault: a replica may try again at once
		return errors.Join(append(errs, err, m.store.release(write, leases))...)
	}
	errs = append(errs, m.store.unreachable(write, leases, backoff(attempts, 500*time.Millisecond, 5*time.Second), errorText(err)))
	for _, r := range called {
		m.queues.wake(pool{r.OwnerID, r.ModelID}, errStuck)
	}
	return errors.Join(append(errs, fmt.Errorf("session: reconcile %d opens of unknown outcome: %w", len(called), err))...)
}

// failUncalled fails the intents whose opener stopped before it called the node. It
// returns the others, for which the node was called.
func (m *Manager) failUncalled(ctx context.Context, token string, rows []row) (called []row, errs []error) {
	write, stop := m.detached(ctx)
	defer stop()
	for _, r := range rows {
		if r.TakenOver {
			m.opts.Observe(Event{Kind: TakenOver})
		}
		if !r.CalledAt.IsZero() {
			called = append(called, r)
			continue
		}
		errs = append(errs, m.store.fail(write, lease{r.ID, token}, reasonNotAsked, "the opener stopped before it asked the node"))
		m.queues.wake(pool{r.OwnerID, r.ModelID}, nil)
	}
	return called, errs
}

// adopt writes into each row the session that its intent has opened, and requeues the
// intents without one.
func (m *Manager) adopt(ctx context.Context, token string, rows []row, orphans []ChainSession) error {
	var errs []error
	for _, r := range rows {
		l, p := lease{r.ID, token}, pool{r.OwnerID, r.ModelID}
		if i := slices.IndexFunc(orphans, func(c ChainSession) bool { return hasFingerprint(c, r.ModelID, r.askedLength(), r.CalledAt.Time) }); i >= 0 {
			c := orphans[i]
			if !c.ClosedAt.IsZero() && c.ClosedAt.Before(c.EndsAt) {
				c.EndsAt = c.ClosedAt
			}
			took, err := m.store.complete(ctx, l, c, true, m.opts.CloseAfter)
			errs = append(errs, err)
			if took {
				m.opts.Observe(Event{Kind: Adopted})
				m.opts.Logger.Warn("found and adopted the session of an open of unknown outcome", "intent", r.ID, "session_id", c.ID, "model_id", c.ModelID)
				m.queues.wake(p, nil)
				continue
			}
		}
		state, err := m.store.requeue(ctx, l, m.opts.ReconcileTimeout, backoff(r.Attempts, 500*time.Millisecond, 5*time.Second))
		errs = append(errs, err)
		if state == stateLost || state == stateFailed {
			m.opts.Observe(Event{Kind: GivenUp, Result: state})
			m.opts.Logger.Warn("found no session of an open of unknown outcome", "intent", r.ID, "model_id", r.ModelID, "state", state)
		}
		m.queues.wake(p, nil)
	}
	return errors.Join(errs...)
}

// errNode marks errors of the node, to tell them from those of the database.
var errNode = errors.New("the node does not list the wallet's sessions")

// orphans returns the wallet's sessions that were opened since then, or up to clockSkew
// before, and that no row has, no client has named and the host has not opened.
func (m *Manager) orphans(ctx context.Context, since time.Time) ([]ChainSession, error) {
	ask, cancel := context.WithTimeout(ctx, m.opts.Lease)
	defer cancel()
	list, err := m.provider.WalletSessions(ask, since.Add(-clockSkew))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNode, err)
	}
	ids := make([]string, len(list))
	for i := range list {
		list[i].ID, list[i].Provider = canonicalID(list[i].ID), strings.ToLower(list[i].Provider)
		ids[i] = list[i].ID
	}
	known, err := m.store.known(ctx, ids)
	if err != nil {
		return nil, err
	}
	named, err := m.store.foreign(ctx, ids)
	if err != nil {
		return nil, err
	}
	orphans := list[:0]
	for _, c := range list {
		if known[c.ID] || named[c.ID] {
			continue
		}
		foreign := false
		if m.opts.Foreign != nil {
			if foreign, err = m.opts.Foreign(ctx, c); err != nil {
				return nil, fmt.Errorf("Options.Foreign: %w", err)
			}
		}
		if !foreign {
			orphans = append(orphans, c)
		}
	}
	return orphans, nil
}

// How the wallet's sessions are compared with the rows.
const (
	auditInterval = 10 * time.Minute // how often
	auditWindow   = 25 * time.Hour   // how far back: longer than a session may last
	foreignKept   = 2 * auditWindow  // how long the ids of foreign sessions are kept
)

// audit counts the wallet's open sessions that have no row. They are paid and serve
// nobody, so operators should look at them. None is adopted.
func (m *Manager) audit(ctx context.Context) error {
	isDue, err := m.store.takeAudit(ctx, auditInterval)
	if !isDue || err != nil {
		return err
	}
	now := m.opts.Now()
	found, err := m.orphans(ctx, now.Add(-auditWindow))
	if err != nil {
		return fmt.Errorf("session: audit of the wallet: %w", err)
	}
	opens, err := m.store.unresolved(ctx)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(c ChainSession) bool {
		return !c.ClosedAt.IsZero() || !c.EndsAt.After(now) ||
			slices.ContainsFunc(opens, func(r row) bool { return hasFingerprint(c, r.ModelID, r.askedLength(), r.CalledAt.Time) })
	})
	m.opts.Observe(Event{Kind: Unexplained, Count: len(found)})
	for _, c := range found {
		m.opts.Logger.Warn("an open session of the wallet has no row", "session_id", c.ID, "model_id", c.ModelID, "ends_at", c.EndsAt)
	}
	write, stop := m.detached(ctx)
	defer stop()
	return errors.Join(m.store.setUnexplained(write, len(found)), m.store.forget(write))
}
