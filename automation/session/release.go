package session

import (
	"context"
	"errors"
	"slices"
	"time"
)

// releasers is how many goroutines release leases. There is more than one so that a
// connection that hangs does not delay all releases.
const releasers = 4

// releaseDue releases the leases that are due, with one statement, and a second one if
// sessions must cool down. If that fails, or another transaction has locked a row, it is
// repeated until the lease has ended by itself.
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
		unreleased, err := lm.store.releaseUnlocked(ctx, leases, busy)
		if err != nil {
			unreleased = leases
		}
		errs = append(errs, err)
		lm.noteReleased(list, unreleased)
	}
	return errors.Join(errs...)
}

// noteReleased removes the leases that have been released. After a pause, the unreleased
// ones are due again.
func (lm *leaseManager) noteReleased(list []*heldLease, unreleased []lease) {
	var retries []*heldLease
	pause := time.Duration(0)
	for _, h := range list {
		lm.mu.Lock()
		isHeld, isReleased := lm.held[h.id] == h, !slices.Contains(unreleased, h.lease)
		switch {
		case !isHeld: // it has ended by itself
		case !isReleased:
			h.attempts++
			pause = backoff(h.attempts, pollInterval, time.Second)
			retries = append(retries, h)
		default:
			lm.remove(h.id)
		}
		lm.mu.Unlock()
		if isHeld && isReleased {
			lm.onReleased(h.row)
		}
	}
	if len(retries) == 0 {
		return
	}
	time.AfterFunc(pause, func() {
		lm.mu.Lock()
		defer lm.mu.Unlock()
		for _, h := range retries {
			if lm.held[h.id] == h {
				lm.due = append(lm.due, h)
			}
		}
		lm.toRelease.Fire()
	})
}

// releaseLoop releases the leases that are due until ctx ends.
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

// releaseDue calls leaseManager.releaseDue within the time limit of a write.
func (m *Manager) releaseDue(ctx context.Context) {
	ctx, cancel := m.detached(ctx)
	defer cancel()
	if err := m.leases.releaseDue(ctx); err != nil {
		m.opts.Logger.Warn("sessions not released, trying again until their leases end", "lease", m.opts.Lease, "error", err)
	}
}

// noteLoopsEnded records that no loop releases leases any more. A request that ends from
// now on must release its lease itself.
func (lm *leaseManager) noteLoopsEnded() {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.loopsEnded = true
}

// haveLoopsEnded reports whether noteLoopsEnded was called.
func (lm *leaseManager) haveLoopsEnded() bool {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	return lm.loopsEnded
}
