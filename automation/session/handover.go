package session

import (
	"context"
	"slices"
	"time"
)

// handOver is what the lease of a request's session has besides. It is empty in a
// lease that is no request's.
type handOver struct {
	row            *row
	sentAt         time.Time     // when the lease was requested, on our clock
	ends           time.Time     // the session's end, on our clock or a little earlier
	unshared       bool          // no other replica has needed the session lately
	allowed        bool          // it may linger
	handOvers      int           // how often it was handed over
	busy           bool          // the node may be working: the session is to cool down
	releasingSince time.Time     // since when it has been on its way back
	attempts       int           // how often the database did not take it back
	timer          *time.Timer   // ends its lingering
	released       chan struct{} // closed when the lease is held no more
}

// addSession is add for a request's session. Its lease lingers only if mayLinger allows it.
func (lm *leaseManager) addSession(l lease, sentAt time.Time, lost context.CancelCauseFunc, r *row, mayLinger bool) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	own, follows := lm.noteUse(r)
	if follows {
		lm.startPolling.Fire()
	}
	lm.insert(&heldLease{lease: l, until: lm.safeUntil(sentAt), cancel: lost,
		handOver: handOver{row: r, sentAt: sentAt, ends: sentAt.Add(seconds(r.Left)), unshared: own, allowed: follows && mayLinger, released: make(chan struct{})}})
}

// confirm notes what a heartbeat that was sent at sentAt has found.
func (h *heldLease) confirm(sentAt time.Time, c confirmed) {
	if h.row == nil {
		return
	}
	h.allowed = h.allowed && c.State == stateOpen
	h.ends = sentAt.Add(seconds(c.Left))
}

// end ends a request's use of a lease, which lingers or is released: to cool down
// where the node may be busy. The channel, if there is one, is to be waited for: another
// replica may be the next to need the session. It is closed when the lease is held no more.
func (lm *leaseManager) end(l lease, busy bool) (lingers bool, released <-chan struct{}) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	h := lm.held[l.id]
	if h == nil || h.token != l.token { // it was lost here, but the database may not have given it to another
		lm.due = append(lm.due, &heldLease{lease: l, handOver: handOver{busy: busy}})
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

// startRelease has a lingering lease released. The caller holds the lock.
func (lm *leaseManager) startRelease(h *heldLease) {
	if lm.held[h.id] != h || h.phase != lingering {
		return
	}
	h.stopTimer()
	h.phase, h.releasingSince = releasing, lm.now()
	lm.due = append(lm.due, h)
	lm.toRelease.Fire()
}

func (h *heldLease) stopTimer() {
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
}

// removeIdle takes a lease out of those that rest. The caller holds the lock.
func (lm *leaseManager) removeIdle(h *heldLease) {
	h.stopTimer()
	p := h.row.pool()
	if list := slices.DeleteFunc(lm.idle[p], func(o *heldLease) bool { return o == h }); len(list) > 0 {
		lm.idle[p] = list
	} else {
		delete(lm.idle, p)
	}
}

// canHandOver reports whether another request of this replica may have the lease
// next: it lasts for as long as a heartbeat takes to come. The caller holds the lock.
func (lm *leaseManager) canHandOver(h *heldLease, now time.Time) bool {
	return h.allowed && !lm.lingerStopped && h.handOvers < maxHandOvers && now.Before(h.sentAt.Add(maxHandOverTime)) && now.Add(lm.lease/3).Before(h.until)
}

// take hands a lingering lease of the pool over to a request that accepts its session,
// of which there is margin left: the one that ends first. Where none will do they are
// released, because the database knows which of several serves a request best; releases
// has the channels of those that are on their way.
func (lm *leaseManager) take(p pool, accepts func(*row) bool, margin time.Duration, lost context.CancelCauseFunc) (r *row, l lease, releases []<-chan struct{}) {
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
	first.phase, first.cancel = inUse, lost
	first.handOvers++
	return first.row, first.lease, nil
}

// hasIdle reports whether a lease of the pool lingers or is being released.
func (lm *leaseManager) hasIdle(p pool) bool {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	return len(lm.idle[p]) > 0
}

// recall has the lingering leases of matching sessions released. It returns channels that
// are closed when these leases, and those that are being released, are held no more.
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

// countReleasing counts the pool's sessions that are about to be free because they are being
// released. One that the database does not take back for long is none.
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

// forbidHandOver lets no lease of matching sessions be handed over any more.
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

// stopLingering lets nothing linger any more.
func (lm *leaseManager) stopLingering() {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	lm.lingerStopped = true
	for _, list := range lm.idle {
		lm.recallOf(list, func(*row) bool { return true })
	}
}
