package session

import (
	"context"
	"slices"
	"time"
)

// pollInterval is how often the database is asked whether a session is needed
// elsewhere or has been ended, while its lease lingers.
const pollInterval = 50 * time.Millisecond

// pollNeeded asks the database whether the sessions that this replica keeps are needed
// elsewhere, or serve nobody any more, and lets these go.
func (lm *leaseManager) pollNeeded(ctx context.Context) error {
	kept := lm.mayLingerIDs()
	if len(kept) == 0 {
		return nil
	}
	needed, err := lm.store.neededElsewhere(ctx, kept)
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

// mayLingerIDs returns the sessions that this replica may keep from the others beyond a request.
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

// pollLoop polls for as long as something may linger. Like a request that waits, it asks
// a slow database at most half of the time.
func (m *Manager) pollLoop(ctx context.Context) {
	tick := time.NewTimer(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.leases.startPolling:
		}
		pause := pollInterval
		for len(m.leases.mayLingerIDs()) > 0 {
			tick.Reset(pause)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			began := m.opts.Now()
			m.pollNeeded(ctx)
			pause = max(pollInterval, m.opts.Now().Sub(began))
		}
	}
}

// pollNeeded is the leaseManager's, within the time for which a lease may linger.
func (m *Manager) pollNeeded(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, maxLinger)
	defer cancel()
	if err := m.leases.pollNeeded(limited); err != nil && ctx.Err() == nil {
		m.opts.Logger.Debug("it is not known whether lingering sessions are needed elsewhere", "error", err)
	}
}
