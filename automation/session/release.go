package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

// releasers is how many statements at once release leases. More than one, so
// that a connection that hangs keeps no other lease.
const releasers = 4

// releaseDue releases what is due, with one statement, or two if sessions are to cool
// down. What the database does not take, such as a row that another transaction has
// locked, is tried again until the lease has ended by itself.
func (lm *leaseManager) releaseDue(ctx context.Context) error {
	lm.mu.Lock()
	due := lm.due
	lm.due = nil
	lm.mu.Unlock()
	var errs []error
	for _, busy := range []bool{false, true} {
		var list []*heldLease
		var leases []lease
		for _, h := range due {
			if h.busy == busy {
				list, leases = append(list, h), append(leases, h.lease)
			}
		}
		if len(list) == 0 {
			continue
		}
		left, err := lm.store.releaseUnlocked(ctx, leases, busy)
		if err != nil {
			left = leases
		}
		errs = append(errs, err)
		lm.noteReleased(list, left)
	}
	return errors.Join(errs...)
}

// noteReleased forgets the leases that have been released. Those that are left are
// due again, later.
func (lm *leaseManager) noteReleased(list []*heldLease, left []lease) {
	var again []*heldLease
	pause := time.Duration(0)
	for _, h := range list {
		lm.mu.Lock()
		mine := lm.held[h.id] == h
		switch {
		case !mine:
		case slices.Contains(left, h.lease):
			h.attempts++
			pause = backoff(h.attempts, pollInterval, time.Second)
			again = append(again, h)
		default:
			lm.remove(h.id)
		}
		lm.mu.Unlock()
		if mine && !slices.Contains(left, h.lease) {
			lm.onReleased(h.row)
		}
	}
	if len(again) == 0 {
		return
	}
	time.AfterFunc(pause, func() {
		lm.mu.Lock()
		defer lm.mu.Unlock()
		for _, h := range again {
			if lm.held[h.id] == h {
				lm.due = append(lm.due, h)
			}
		}
		lm.toRelease.Fire()
	})
}

// releaseLoop releases leases, all that are due at a time.
func (m *Manager) releaseLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.leases.toRelease:
			m.releaseDue(ctx)
		}
	}
}

// releaseDue is the leaseManager's, within the time that a write may take.
func (m *Manager) releaseDue(ctx context.Context) {
	ctx, cancel := m.detached(ctx)
	defer cancel()
	if err := m.leases.releaseDue(ctx); err != nil {
		m.opts.Logger.Warn("sessions not released yet, trying again", "lease", m.opts.Lease, "error", err)
	}
}

// noteLoopsEnded makes whoever ends a use from now on release the lease itself.
func (lm *leaseManager) noteLoopsEnded() {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.loopsEnded = true
}

func (lm *leaseManager) haveLoopsEnded() bool {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	return lm.loopsEnded
}
