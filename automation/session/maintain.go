package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// Maintain is one round of maintenance: it settles opens of unknown outcome, renews what is
// in use, keeps prewarmed models ready and closes what has ended. Run calls it
// again and again; any number of replicas may at the same time.
func (m *Manager) Maintain(ctx context.Context) error {
	return errors.Join(m.maintainOpens(ctx), m.sweep(ctx))
}

// maintainOpens is apart from the sweep, which may take long.
func (m *Manager) maintainOpens(ctx context.Context) error {
	return errors.Join(m.reconcile(ctx), m.renew(ctx), m.prewarm(ctx))
}

// batch is how many rows a statement of the maintenance takes at most.
const batch = 32

// reconcile looks for opens of unknown outcome among the wallet's sessions.
func (m *Manager) reconcile(ctx context.Context) error {
	token, asked := rand.Text(), m.opts.Now()
	rows, err := m.store.takeUnresolved(ctx, token, batch)
	if err != nil || len(rows) == 0 {
		return err
	}
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, r := range rows {
		m.leases.add(lease{r.ID, token}, asked, cancel)
		defer m.leases.drop(lease{r.ID, token})
	}
	write, stop := detached(ctx)
	defer stop()
	var errs []error
	rows = slices.DeleteFunc(rows, func(r row) bool {
		if r.TakenOver {
			m.opts.Observe(Event{Kind: TakenOver})
		}
		if r.CalledAt.IsZero() { // its opener never came to ask the node
			errs = append(errs, m.store.fail(write, lease{r.ID, token}, reasonNotAsked, "the opener stopped before it asked the node"))
			m.queues.wake(pool{r.OwnerID, r.ModelID}, nil)
		}
		return r.CalledAt.IsZero()
	})
	if len(rows) == 0 {
		return errors.Join(errs...)
	}
	slices.SortFunc(rows, func(a, b row) int { return a.CalledAt.Compare(b.CalledAt.Time) })
	// Orphans before the calls under way: an open that starts after the first
	// question has no session among its answers, and one that ends before the
	// second has its session in a row, where no other can take it.
	found, err := m.orphans(work, rows[0].CalledAt.Time)
	if err == nil {
		var under map[string][]time.Time
		if under, err = m.store.underWay(work, 5*m.opts.OpenTimeout); err == nil {
			return errors.Join(append(errs, m.adopt(write, token, rows, found, under))...)
		}
	}
	held := make([]lease, len(rows))
	least := rows[0].Attempts
	for i, r := range rows {
		held[i], least = lease{r.ID, token}, min(least, r.Attempts)
	}
	if !errors.Is(err, errNode) || work.Err() != nil { // it is not the node's fault: whoever comes next
		return errors.Join(append(errs, err, m.store.release(write, held))...)
	}
	errs = append(errs, m.store.unreachable(write, held, backoff(least, 500*time.Millisecond, 5*time.Second), errorText(err)))
	for _, r := range rows {
		m.queues.wake(pool{r.OwnerID, r.ModelID}, errStuck)
	}
	return errors.Join(append(errs, fmt.Errorf("session: settle %d opens of unknown outcome: %w", len(rows), err))...)
}

// adopt gives each intent the orphan that it opened, oldest intent first: those
// of the length that was asked for, then those that the chain has shortened.
func (m *Manager) adopt(ctx context.Context, token string, rows []row, orphans []ChainSession, under map[string][]time.Time) error {
	var errs []error
	unclear := map[string]bool{}
	for _, exact := range []bool{true, false} {
		rows = slices.DeleteFunc(rows, func(r row) bool {
			i := bestMatch(orphans, r.ModelID, r.asked(), r.CalledAt.Time, exact)
			if i < 0 {
				return false
			}
			if ambiguous(orphans, i, r, under[r.ModelID]) {
				unclear[r.ID] = true
				return false
			}
			c := orphans[i]
			orphans = slices.Delete(orphans, i, i+1)
			if !c.ClosedAt.IsZero() && c.ClosedAt.Before(c.EndsAt) {
				c.EndsAt = c.ClosedAt
			}
			took, err := m.store.complete(ctx, lease{r.ID, token}, c, m.opts.CloseAfter)
			errs = append(errs, err)
			if took {
				m.opts.Observe(Event{Kind: Adopted})
				m.opts.Logger.Warn("a session whose open was of unknown outcome was found and adopted", "intent", r.ID, "session_id", c.ID, "model_id", c.ModelID)
				m.queues.wake(pool{r.OwnerID, r.ModelID}, nil)
			}
			return took
		})
	}
	for _, r := range rows {
		settle, pause := m.opts.ReconcileTimeout, backoff(r.Attempts, time.Second, 15*time.Second)
		if unclear[r.ID] {
			// One is there, and it is this intent's or that of a call under way.
			// Who gives up now may pay twice; the calls will have ended by then.
			settle, pause = settle+m.opts.OpenTimeout, time.Second
		}
		state, err := m.store.requeue(ctx, lease{r.ID, token}, settle, pause)
		errs = append(errs, err)
		if state == stateLost || state == stateFailed {
			m.opts.Observe(Event{Kind: GivenUp, Result: state})
			m.opts.Logger.Warn("an open of unknown outcome came to nothing so far", "intent", r.ID, "model_id", r.ModelID, "state", state)
			m.queues.wake(pool{r.OwnerID, r.ModelID}, nil)
		}
	}
	return errors.Join(errs...)
}

// asked is how long the session was to last.
func (r *row) asked() time.Duration { return time.Duration(r.Duration) * time.Second }

// ambiguous reports whether the orphan at best, and all like it, may as well
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
	for i := range orphans {
		if bestMatch(orphans[i:i+1], r.ModelID, r.asked(), r.CalledAt.Time, false) == 0 {
			alike++
		}
	}
	return alike <= calls
}

// closers is how many sessions a replica closes at a time. It takes no more
// than these from the others, and none of them waits with its lease running.
const closers = 4

// sweep closes what has ended, or was asked to be closed.
func (m *Manager) sweep(ctx context.Context) error {
	var errs []error
	for ctx.Err() == nil {
		token, asked := rand.Text(), m.opts.Now()
		rows, err := m.store.takeDue(ctx, token, closers)
		errs = append(errs, err)
		if len(rows) == 0 {
			break
		}
		var wg sync.WaitGroup
		fails := make([]error, len(rows))
		for i, r := range rows {
			wg.Go(func() {
				work, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				m.leases.add(lease{r.ID, token}, asked, cancel)
				defer m.leases.drop(lease{r.ID, token})
				fails[i] = m.close(work, r, lease{r.ID, token})
			})
		}
		wg.Wait()
		errs = append(errs, fails...)
		if len(rows) < closers {
			break
		}
	}
	return errors.Join(errs...)
}

// closeTimeout bounds the wait for the node to close a session.
const closeTimeout = time.Minute

func (m *Manager) close(ctx context.Context, r row, l lease) error {
	id := r.SessionID.String
	if r.Provider == "" && r.Left <= 0 { // the end was estimated, and may be too early
		c, err := m.get(ctx, id)
		if err == nil && c.ClosedAt.IsZero() && c.EndsAt.After(r.EndsAt.Time) {
			w, cancel := detached(ctx)
			defer cancel()
			return m.store.updateExpiry(w, l, c, m.opts.CloseAfter)
		}
	}
	ask, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	begun := m.opts.Now()
	ended := func(result string) {
		m.opts.Observe(Event{Kind: Closed, Result: result, Took: m.opts.Now().Sub(begun)})
	}
	err := m.provider.CloseSession(ask, id)
	m.opts.failpoint("during-close")
	if err != nil && !errors.Is(err, ErrUnavailable) {
		// The node closes ended sessions itself; perhaps it has.
		if c, e := m.get(ctx, id); errors.Is(e, ErrSessionNotFound) || e == nil && !c.ClosedAt.IsZero() {
			err = nil
		}
	}
	w, cancel := detached(ctx)
	defer cancel()
	if err == nil {
		ended("closed")
		m.opts.Logger.Info("session closed", "session_id", id, "model_id", r.ModelID)
		return m.store.closed(w, l)
	}
	if ctx.Err() != nil { // it was us who stopped, so it is still due
		return m.store.release(w, []lease{l})
	}
	ended("failed")
	if errors.Is(err, ErrWalletCollision) {
		m.opts.Observe(Event{Kind: Collided})
		if e := m.store.collided(w, l, collisionWindow); e != nil {
			return e
		}
	}
	pause := backoff(r.Attempts, 30*time.Second, 10*time.Minute)
	m.opts.Logger.Warn("session not closed, trying again later", "session_id", id, "attempt", r.Attempts, "pause", pause, "error", err)
	return m.store.notClosed(w, l, pause, errorText(err))
}

// renew opens successors for sessions in use before they end: while they are
// still handed out, and early enough for an ordinary open.
func (m *Manager) renew(ctx context.Context) error {
	if m.opts.Renew == nil {
		return nil
	}
	ahead := func(d time.Duration) time.Duration { return m.opts.RenewAhead + m.margin(d) - m.opts.Margin }
	rows, err := m.store.expiring(ctx, ahead(math.MaxInt64), m.opts.CloseAfter, batch)
	errs := []error{err}
	for _, r := range rows {
		if r.Left > ahead(r.asked()).Seconds() {
			continue
		}
		duration, wanted := m.opts.Renew(ctx, r.UserID)
		if !wanted {
			continue
		}
		errs = append(errs, m.openFor(ctx, reserveRequest{pool: pool{r.OwnerID, r.ModelID}, user: r.UserID, duration: duration, replaces: r.ID}))
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
		errs = append(errs, m.openFor(ctx, reserveRequest{pool: pool{"", p.ModelID}, duration: p.Duration, prewarm: true, margin: m.opts.RenewAhead}))
	}
	return errors.Join(errs...)
}

// openFor opens one session that no request waits for.
func (m *Manager) openFor(ctx context.Context, o reserveRequest) error {
	asked := m.opts.Now()
	o.opens = []lease{{rand.Text(), rand.Text()}}
	a, err := m.reserve(ctx, o)
	if err != nil {
		return err
	}
	o.opens = a.opens
	m.openAll(o, asked, nil)
	return nil
}

// backoff is the jittered pause after an attempt, doubled from first to limit.
func backoff(attempt int, first, limit time.Duration) time.Duration {
	return retry.Jitter(retry.Backoff(attempt, first, limit))
}
