package session

import (
	"context"
	"crypto/rand"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// Maintain does one round of maintenance. It finds out the outcome of unknown opens,
// opens successors of sessions in use, keeps an idle session of prewarmed models, and
// closes sessions that have ended. Run does the same in loops. Any number of replicas may
// do it at the same time.
func (m *Manager) Maintain(ctx context.Context) error {
	return errors.Join(m.maintainOpens(ctx), m.sweep(ctx))
}

// maintainOpens does the part of a round that opens sessions. It has a loop of its own,
// because the other part, sweep, may take long.
func (m *Manager) maintainOpens(ctx context.Context) error {
	due, err := m.due(ctx)
	errs := []error{err}
	if due.Unresolved {
		errs = append(errs, m.reconcile(ctx))
	}
	if due.Failures || m.providers.hasFailures() {
		errs = append(errs, m.readProviders(ctx))
	}
	if due.Expiring {
		errs = append(errs, m.renew(ctx))
	}
	errs = append(errs, m.prewarm(ctx))
	if due.Audit {
		errs = append(errs, m.audit(ctx))
	}
	return errors.Join(errs...)
}

// due reports what a round has to do. If that cannot be read, it reports everything.
func (m *Manager) due(ctx context.Context) (dueWork, error) {
	due, err := m.store.due(ctx, m.renewAhead(math.MaxInt64), m.opts.CloseAfter)
	if err != nil {
		return dueWork{true, true, true, true, true}, err
	}
	return due, nil
}

// closers is how many sessions a replica closes at a time. It leases no more at once, so
// that none of them waits while its lease runs.
const closers = 4

// sweep closes the sessions that have ended or were marked for closing.
func (m *Manager) sweep(ctx context.Context) error {
	due, err := m.due(ctx)
	if !due.Ended {
		return nil
	}
	errs := []error{err}
	for ctx.Err() == nil {
		token, sentAt := rand.Text(), m.opts.Now()
		rows, err := m.store.takeDue(ctx, token, closers)
		errs = append(errs, err)
		if len(rows) == 0 {
			break
		}
		var wg sync.WaitGroup
		closeErrs := make([]error, len(rows))
		for i, r := range rows {
			wg.Go(func() {
				work, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				m.leases.add(lease{r.ID, token}, sentAt, cancel)
				defer m.leases.drop(lease{r.ID, token})
				closeErrs[i] = m.close(work, r, lease{r.ID, token})
			})
		}
		wg.Wait()
		errs = append(errs, closeErrs...)
		if len(rows) < closers {
			break
		}
	}
	return errors.Join(errs...)
}

// closeTimeout bounds the wait for the node to close a session.
const closeTimeout = time.Minute

// close closes a session. It reads the chain first, because the node may have closed an
// ended session by itself, and takes long to say so when it is asked to close it.
func (m *Manager) close(ctx context.Context, r row, l lease) error {
	id := r.SessionID.String
	begun := m.opts.Now()
	observe := func(result string) {
		m.opts.Observe(Event{Kind: Closed, Result: result, Took: m.opts.Now().Sub(begun)})
	}
	endedByEstimate := r.Provider == "" && r.Left <= 0 // without a provider, the row's end is an estimate
	chain, err := m.get(ctx, id)
	switch {
	case errors.Is(err, ErrSessionNotFound), err == nil && !chain.ClosedAt.IsZero():
		err = nil
	case err == nil && endedByEstimate && chain.EndsAt.After(r.EndsAt.Time): // the estimate was too early
		w, cancel := m.detached(ctx)
		defer cancel()
		return m.store.updateExpiry(w, l, chain, m.opts.CloseAfter)
	case errors.Is(err, ErrUnavailable), err != nil && endedByEstimate: // perhaps it has not ended
	default:
		ask, cancel := context.WithTimeout(ctx, closeTimeout)
		defer cancel()
		err = m.provider.CloseSession(ask, id)
		m.opts.failpoint("during-close")
	}
	w, cancel := m.detached(ctx)
	defer cancel()
	if err == nil {
		observe("closed")
		m.opts.Logger.Info("session closed", "session_id", id, "model_id", r.ModelID)
		return m.store.closed(w, l)
	}
	if ctx.Err() != nil { // this replica has stopped the close, so it is still due
		return m.store.release(w, []lease{l})
	}
	observe("failed")
	if errors.Is(err, ErrWalletCollision) {
		m.opts.Observe(Event{Kind: Collided})
		if e := m.store.collided(w, l); e != nil {
			return e
		}
	}
	pause := backoff(r.Attempts, 30*time.Second, 10*time.Minute)
	m.opts.Logger.Warn("session not closed, trying again later", "session_id", id, "attempt", r.Attempts, "pause", pause, "error", err)
	return m.store.notClosed(w, l, pause, errorText(err))
}

// renew opens successors of sessions in use before they end: early enough for an ordinary
// open, while the session is still handed out.
func (m *Manager) renew(ctx context.Context) error {
	if m.opts.Renew == nil {
		return nil
	}
	rows, err := m.store.expiring(ctx, m.renewAhead(math.MaxInt64), m.opts.CloseAfter, batch)
	errs := []error{err}
	for _, r := range rows {
		if r.Left > m.renewAhead(r.chosen()).Seconds() {
			continue
		}
		duration, wanted := m.opts.Renew(ctx, r.UserID)
		if !wanted {
			continue
		}
		errs = append(errs, m.openOne(ctx, reserveRequest{claimRequest: claimRequest{pool: pool{r.OwnerID, r.ModelID}}, user: r.UserID,
			duration: duration, purpose: purposeRenewal, replaces: r.ID},
			func(ctx context.Context) bool { _, wanted := m.opts.Renew(ctx, r.UserID); return wanted }))
	}
	return errors.Join(errs...)
}

// renewAhead returns how long before its end a session of that duration gets a successor.
func (m *Manager) renewAhead(d time.Duration) time.Duration {
	return m.opts.RenewAhead + m.margin(d) - m.opts.Margin
}

// prewarm keeps one idle session of each model of Options.Prewarm ready.
func (m *Manager) prewarm(ctx context.Context) error {
	if m.opts.Prewarm == nil {
		return nil
	}
	var errs []error
	list := m.opts.Prewarm()
	models := make([]string, len(list))
	for i, p := range list {
		models[i] = p.ModelID
	}
	m.prewarmed.Store(&models)
	for _, p := range list {
		n, err := m.store.idle(ctx, p.ModelID, m.opts.RenewAhead)
		if err != nil || n > 0 {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, m.openOne(ctx, reserveRequest{claimRequest: claimRequest{pool: pool{"", p.ModelID}, margin: m.opts.RenewAhead},
			duration: p.Duration, purpose: purposePrewarm}, func(context.Context) bool { return true }))
	}
	return errors.Join(errs...)
}

// openOne opens one session that no request waits for, if needed still reports true when
// the node can be called.
func (m *Manager) openOne(ctx context.Context, r reserveRequest, needed func(context.Context) bool) error {
	sentAt := m.opts.Now()
	res, err := m.reserve(ctx, &r)
	if err != nil {
		return err
	}
	m.openAll(r, res.opens, sentAt, &soloOpen{needed: needed})
	return nil
}

// backoff returns the pause after an attempt, which grows from first to limit. It is
// jittered.
func backoff(attempt int, first, limit time.Duration) time.Duration {
	return retry.Jitter(retry.Backoff(attempt, first, limit))
}
