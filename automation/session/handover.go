package session

import (
	"context"
	"slices"
	"time"
)

// requestLease are the fields of a lease that requests hold. They are empty in the lease
// of an open or of the maintenance.
type requestLease struct {
	row            *row          // nil if no request holds the lease
	sentAt         time.Time     // when the lease was requested, on this replica's clock
	ends           time.Time     // the session's end, on this replica's clock or a little earlier
	unshared       bool          // no other replica has needed the session lately
	allowed        bool          // the lease may linger
	handOvers      int           // how often it was handed over
	busy           bool          // the session must cool down, because the node may be working
	releasingSince time.Time     // when its release began
	attempts       int           // how many releases have failed
	timer          *time.Timer   // ends the lingering
	released       chan struct{} // closed when this replica does not hold the lease any more
}

// addSession adds the lease of a request's session. The lease may linger only if mayLinger
// is set and the request follows another one of this replica closely.
func (lm *leaseManager) addSession(l lease, sentAt time.Time, cancel context.CancelCauseFunc, r *row, mayLinger bool) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	unshared, follows := lm.noteUse(r)
	if follows {
		lm.startPolling.Fire()
	}
	lm.insert(&heldLease{lease: l, until: lm.safeUntil(sentAt), cancel: cancel,
		requestLease: requestLease{row: r, sentAt: sentAt, ends: sentAt.Add(seconds(r.Left)),
			unshared: unshared, allowed: follows && mayLinger, released: make(chan struct{})}})
}

// confirm records the state and the end of the session as a heartbeat that was sent at
// sentAt has read them.
func (h *heldLease) confirm(sentAt time.Time, c confirmed) {
	if h.row == nil {
		return
	}
	h.allowed = h.allowed && c.State == stateOpen
	h.ends = sentAt.Add(seconds(c.Left))
}

// end ends a request's use of a lease. The lease then lingers or is released; if busy is
// set, the session cools down. If released is not nil, the caller should wait until it is
// closed, because the next request for the session may come to another replica.
func (lm *leaseManager) end(l lease, busy bool) (lingers bool, released <-chan struct{}) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	h := lm.held[l.id]
	if h == nil || h.token != l.token { // this replica has lost it, but the database may still have it
		lm.due = append(lm.due, &heldLease{lease: l, requestLease: requestLease{busy: busy}})
		lm.toRelease.Fire()
		return false, nil
	}
	now := lm.now()
	lm.updateUse(l.id, func(u *sessionUse) { u.endedAt = now })
	p := h.row.pool()
	lm.idle[p] = append(lm.idle[p], h)
	h.phase, h.busy = lingering, busy
	if busy || !lm.canHandOver(h, now) {
		lm.startRelease(h)
		if h.unshared {
			return false, nil
		}
		return false, h.released
	}
	h.timer = time.AfterFunc(min(lm.linger, h.sentAt.Add(maxHandOverTime).Sub(now)), func() {
		lm.mu.Lock()
		defer lm.mu.Unlock()
		lm.startRelease(h)
	})
	return true, nil
}

// startRelease begins the release of a lingering lease. The caller holds the lock.
func (lm *leaseManager) startRelease(h *heldLease) {
	if lm.held[h.id] != h || h.phase != lingering {
		return
	}
	h.stopTimer()
	h.phase, h.releasingSince = releasing, lm.now()
	lm.due = append(lm.due, h)
	lm.toRelease.Fire()
}

// stopTimer stops the timer that ends the lingering. The caller holds the lock.
func (h *heldLease) stopTimer() {
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
}

// removeIdle removes a lease from the idle ones. The caller holds the lock.
func (lm *leaseManager) removeIdle(h *heldLease) {
	h.stopTimer()
	p := h.row.pool()
	if list := slices.DeleteFunc(lm.idle[p], func(o *heldLease) bool { return o == h }); len(list) > 0 {
		lm.idle[p] = list
	} else {
		delete(lm.idle, p)
	}
}

// canHandOver reports whether another request of this replica may have the lease next.
// The lease must last at least until the next heartbeat. The caller holds the lock.
func (lm *leaseManager) canHandOver(h *heldLease, now time.Time) bool {
	return h.allowed && !lm.lingerStopped &&
		h.handOvers < maxHandOvers && now.Before(h.sentAt.Add(maxHandOverTime)) &&
		now.Add(lm.lease/3).Before(h.until)
}

// take hands over a lingering lease of the pool to a request. The session must last
// longer than margin and be accepted; of several, take hands over the one that ends
// first. If there is none, it releases all idle leases of the pool, because the database
// chooses the session that serves the request best. It then returns channels that are
// closed when the leases have been released.
func (lm *leaseManager) take(p pool, accepts func(*row) bool, margin time.Duration, cancel context.CancelCauseFunc) (r *row, l lease, releases []<-chan struct{}) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	now := lm.now()
	var first *heldLease
	for _, h := range lm.idle[p] {
		if h.phase == lingering && lm.canHandOver(h, now) && now.Add(margin).Before(h.ends) && accepts(h.row) &&
			(first == nil || h.ends.Before(first.ends)) {
			first = h
		}
	}
	if first == nil {
		return nil, l, lm.recallOf(lm.idle[p], func(*row) bool { return true })
	}
	lm.removeIdle(first)
	first.phase, first.cancel = inUse, cancel
	first.handOvers++
	return first.row, first.lease, nil
}

// hasIdle reports whether a lease of the pool lingers or is being released.
func (lm *leaseManager) hasIdle(p pool) bool {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	return len(lm.idle[p]) > 0
}

// recall begins the release of the lingering leases of matching sessions. It returns
// channels that are closed when these leases, and those that are being released already,
// have been released. It leaves out sessions that cool down.
func (lm *leaseManager) recall(matches func(*row) bool) (releases []<-chan struct{}) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, list := range lm.idle {
		releases = append(releases, lm.recallOf(list, matches)...)
	}
	return releases
}

// recallOf is recall for some of the leases. The caller holds the lock.
func (lm *leaseManager) recallOf(list []*heldLease, matches func(*row) bool) (releases []<-chan struct{}) {
	for _, h := range list {
		if !h.busy && matches(h.row) {
			lm.startRelease(h)
			releases = append(releases, h.released)
		}
	}
	return releases
}

// countReleasing counts the pool's sessions that are about to be free because they are
// being released. It leaves out a release that takes longer than releaseTimeout.
func (lm *leaseManager) countReleasing(p pool) (n int) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	now := lm.now()
	for _, h := range lm.idle[p] {
		if h.phase == releasing && !h.busy && now.Before(h.releasingSince.Add(releaseTimeout)) {
			n++
		}
	}
	return n
}

// forbidHandOver prevents any further hand-over of matching sessions, and releases those
// that linger.
func (lm *leaseManager) forbidHandOver(matches func(*row) bool) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	for _, h := range lm.held {
		if h.row != nil && matches(h.row) {
			h.allowed = false
			lm.startRelease(h)
		}
	}
}

// stopLingering prevents any further lingering, and releases the leases that linger.
func (lm *leaseManager) stopLingering() {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.lingerStopped = true
	for _, list := range lm.idle {
		lm.recallOf(list, func(*row) bool { return true })
	}
}
