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
func (k *leaseManager) pollNeeded(ctx context.Context) error {
	kept := k.kept()
	if len(kept) == 0 {
		return nil
	}
	needed, err := k.store.needed(ctx, kept)
	if err != nil || len(needed) == 0 {
		return err
	}
	k.forbid(func(r *row) bool { return slices.Contains(needed, r.ID) })
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range needed {
		k.note(id, func(u *use) { u.shared = k.now() })
	}
	return nil
}

// kept returns the sessions that this replica may keep from the others beyond a request.
func (k *leaseManager) kept() (ids []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	for id, h := range k.held {
		if h.row != nil && h.phase != releasing && k.canHandOver(h, now) {
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
		case <-m.leases.lingers:
		}
		pause := pollInterval
		for len(m.leases.kept()) > 0 {
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
