package session

import (
	"context"
	"slices"
	"time"
)

// pollInterval is the pause between two questions to the database whether the sessions
// whose leases may linger are needed elsewhere or have been ended.
const pollInterval = 50 * time.Millisecond

// pollNeeded asks the database which of the sessions whose leases may linger are needed
// elsewhere, or serve nobody any more. It prevents their further hand-over.
func (lm *leaseManager) pollNeeded(ctx context.Context) error {
	ids := lm.mayLingerIDs()
	if len(ids) == 0 {
		return nil
	}
	needed, err := lm.store.neededElsewhere(ctx, ids)
	if err != nil || len(needed) == 0 {
		return err
	}
	lm.forbidHandOver(func(r *row) bool { return slices.Contains(needed, r.ID) })
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, id := range needed {
		lm.updateUse(id, func(u *sessionUse) { u.sharedAt = lm.now() })
	}
	return nil
}

// mayLingerIDs returns the ids of the rows whose leases linger, or may linger when their
// requests end.
func (lm *leaseManager) mayLingerIDs() (ids []string) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	now := lm.now()
	for id, h := range lm.held {
		if h.row != nil && h.phase != releasing && lm.canHandOver(h, now) {
			ids = append(ids, id)
		}
	}
	return ids
}

// pollLoop polls while a lease may linger. It pauses at least as long as the database took
// to answer, so that its questions take at most half of the time.
func (m *Manager) pollLoop(ctx context.Context) {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.leases.startPolling:
		}
		pause := pollInterval
		for len(m.leases.mayLingerIDs()) > 0 {
			timer.Reset(pause)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			began := m.opts.Now()
			m.pollNeeded(ctx)
			pause = max(pollInterval, m.opts.Now().Sub(began))
		}
	}
}

// pollNeeded calls leaseManager.pollNeeded, for maxLinger at most. After that none of the
// leases that it asks for may linger any more.
func (m *Manager) pollNeeded(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, maxLinger)
	defer cancel()
	if err := m.leases.pollNeeded(limited); err != nil && ctx.Err() == nil {
		m.opts.Logger.Debug("cannot ask whether lingering sessions are needed elsewhere", "error", err)
	}
}
