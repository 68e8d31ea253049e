package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Tend is one round of maintenance: it settles opens in doubt, closes what has
// ended, renews what is in use and keeps prewarmed models ready. Run calls it
// again and again; any number of replicas may at the same time.
func (m *Manager) Tend(ctx context.Context) error {
	return errors.Join(m.settle(ctx), m.sweep(ctx), m.renew(ctx), m.prewarm(ctx))
}

// batch is how many rows a statement of the maintenance leases at most.
const batch = 32

// settle looks for opens in doubt among the wallet's sessions.
func (m *Manager) settle(ctx context.Context) error {
	token, asked := rand.Text(), m.opts.Now()
	rows, err := m.store.takeUnsettled(ctx, token, batch)
	if err != nil || len(rows) == 0 {
		return err
	}
	since := m.opts.Now()
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, r := range rows {
		m.keeper.add(lease{r.ID, token}, asked, cancel)
		defer m.keeper.drop(lease{r.ID, token})
	}
	var called []row
	var errs []error
	for _, r := range rows {
		if r.CalledAt.IsZero() { // its opener never came to ask the node
			errs = append(errs, m.store.fail(ctx, lease{r.ID, token}, "not_asked", "the opener stopped before it asked the node"))
			continue
		}
		called = append(called, r)
		if r.CalledAt.Before(since) {
			since = r.CalledAt.Time
		}
	}
	if len(called) == 0 {
		return errors.Join(errs...)
	}
	// Orphans before calls under way: an open that ends between the two reads
	// then counts as under way, and its session is nobody's to adopt.
	under, err := m.store.underWay(work)
	if err == nil {
		var found []ChainSession
		if found, err = m.orphans(work, since); err == nil {
			err = m.adopt(ctx, token, called, found, under)
		}
	}
	if err == nil {
		return errors.Join(errs...)
	}
	for _, r := range called {
		// Nobody could look, so it is not given up on that account.
		_, e := m.store.unsettled(ctx, lease{r.ID, token}, 24*time.Hour, backoff(r.Attempts, time.Second, 15*time.Second), clip(err))
		errs = append(errs, e)
		m.lines.wake(pool{r.OwnerID, r.ModelID}, err)
	}
	return errors.Join(append(errs, fmt.Errorf("session: settle %d opens in doubt: %w", len(called), err))...)
}

// adopt gives each intent the orphan that it opened, oldest intent first.
func (m *Manager) adopt(ctx context.Context, token string, rows []row, orphans []ChainSession, under map[string][]time.Time) error {
	slices.SortFunc(rows, func(a, b row) int { return a.CalledAt.Compare(b.CalledAt.Time) })
	var errs []error
	for _, r := range rows {
		in, asked := lease{r.ID, token}, time.Duration(r.Duration)*time.Second
		i := bestMatch(orphans, r.ModelID, asked, r.CalledAt.Time)
		if i >= 0 && ambiguous(orphans, i, r, under[r.ModelID]) {
			i = -1
		}
		if i < 0 {
			state, err := m.store.unsettled(ctx, in, m.opts.Settle, backoff(r.Attempts, time.Second, 15*time.Second), "")
			errs = append(errs, err)
			if state == "lost" || state == "failed" {
				m.opts.Logger.Warn("an open in doubt came to nothing so far", "intent", r.ID, "model_id", r.ModelID, "state", state)
				m.lines.wake(pool{r.OwnerID, r.ModelID}, nil)
			}
			continue
		}
		c := orphans[i]
		orphans = slices.Delete(orphans, i, i+1)
		if !c.ClosedAt.IsZero() && c.ClosedAt.Before(c.EndsAt) {
			c.EndsAt = c.ClosedAt
		}
		took, err := m.store.complete(ctx, in, c, m.opts.CloseAfter)
		errs = append(errs, err)
		if took {
			m.opts.Logger.Warn("a session whose open was in doubt was found and adopted", "intent", r.ID, "session_id", c.ID, "model_id", c.ModelID)
			m.lines.wake(pool{r.OwnerID, r.ModelID}, nil)
		}
	}
	return errors.Join(errs...)
}

// ambiguous tells whether the orphan at best, and all like it, may as well
// belong to opens that are still under way and about to be told. One that was
// opened well before a call cannot be that call's.
func ambiguous(orphans []ChainSession, best int, r row, under []time.Time) bool {
	const clocks = 30 * time.Second // the chain's against the database's
	calls, alike := 0, 0
	for _, called := range under {
		if called.Before(orphans[best].OpenedAt.Add(clocks)) {
			calls++
		}
	}
	for _, c := range orphans {
		if bestMatch([]ChainSession{c}, r.ModelID, time.Duration(r.Duration)*time.Second, r.CalledAt.Time) == 0 {
			alike++
		}
	}
	return alike <= calls
}

// sweep closes what has ended, or was asked to be closed.
func (m *Manager) sweep(ctx context.Context) error {
	var errs []error
	for ctx.Err() == nil {
		token, asked := rand.Text(), m.opts.Now()
		rows, err := m.store.takeDue(ctx, token, batch)
		if err != nil || len(rows) == 0 {
			return errors.Join(append(errs, err)...)
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, 4)
		fails := make([]error, len(rows))
		for i, r := range rows {
			work, cancel := context.WithCancelCause(ctx)
			m.keeper.add(lease{r.ID, token}, asked, cancel)
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				defer cancel(nil)
				defer m.keeper.drop(lease{r.ID, token})
				fails[i] = m.close(work, r, lease{r.ID, token})
			})
		}
		wg.Wait()
		errs = append(errs, fails...)
		if len(rows) < batch {
			break
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) close(ctx context.Context, r row, l lease) error {
	id := r.SessionID.String
	err := m.provider.CloseSession(ctx, id)
	m.opts.failpoint("during-close")
	if err != nil && !errors.Is(err, ErrUnavailable) {
		// The node closes ended sessions itself; perhaps it has.
		if c, e := m.provider.GetSession(ctx, id); errors.Is(e, ErrSessionNotFound) || e == nil && !c.ClosedAt.IsZero() {
			err = nil
		}
	}
	w, cancel := after(ctx)
	defer cancel()
	if err == nil {
		m.opts.Logger.Info("session closed", "session_id", id, "model_id", r.ModelID)
		return m.store.closed(w, l)
	}
	if errors.Is(err, ErrWalletCollision) {
		if e := m.store.collided(w, l, collisionWindow); e != nil {
			return e
		}
	}
	pause := backoff(r.Attempts, 30*time.Second, 10*time.Minute)
	m.opts.Logger.Warn("session not closed, trying again later", "session_id", id, "attempt", r.Attempts, "pause", pause, "error", err)
	return m.store.notClosed(w, l, pause, clip(err))
}

// renew opens successors for sessions in use before they end.
func (m *Manager) renew(ctx context.Context) error {
	if m.opts.Renew == nil {
		return nil
	}
	rows, err := m.store.expiring(ctx, m.opts.RenewAhead, m.opts.CloseAfter, batch)
	errs := []error{err}
	for _, r := range rows {
		duration, wanted := m.opts.Renew(ctx, r.UserID)
		if !wanted {
			continue
		}
		errs = append(errs, m.openFor(ctx, order{pool: pool{r.OwnerID, r.ModelID}, user: r.UserID, duration: duration, replaces: r.ID}))
	}
	return errors.Join(errs...)
}

// prewarm keeps one idle session of each chosen model ready.
func (m *Manager) prewarm(ctx context.Context) error {
	if m.opts.Prewarm == nil {
		return nil
	}
	var errs []error
	for _, p := range m.opts.Prewarm() {
		n, err := m.store.idle(ctx, p.ModelID, m.opts.RenewAhead)
		if err != nil || n > 0 {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, m.openFor(ctx, order{pool: pool{"", p.ModelID}, duration: p.Duration, prewarm: true, margin: m.opts.RenewAhead}))
	}
	return errors.Join(errs...)
}

// openFor opens one session that no request waits for.
func (m *Manager) openFor(ctx context.Context, o order) error {
	asked := m.opts.Now()
	o.opens = []lease{{rand.Text(), rand.Text()}}
	a, err := m.reserve(ctx, o)
	if err != nil {
		return err
	}
	m.openAll(o, a.opens, asked, nil)
	return nil
}

// backoff doubles from least to most.
func backoff(attempt int, least, most time.Duration) time.Duration {
	return jitter(min(least<<min(max(attempt-1, 0), 20), most))
}
