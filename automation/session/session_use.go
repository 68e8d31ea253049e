package session

import "time"

// sessionUse is what this replica remembers of a session that it has used.
type sessionUse struct {
	claimedAt time.Time // when this replica last claimed it, on the database's clock
	endedAt   time.Time // when its last request ended, on this replica's clock
	sharedAt  time.Time // when another replica was last seen to need it, on this replica's clock
}

// noteUse records that a request has claimed a session. It reports whether the session is
// unshared: this replica has used it before, and no other replica has needed it lately.
// It also reports whether the request follows another one of this replica so closely that
// lingering would have saved its claim. The caller holds the lock.
func (lm *leaseManager) noteUse(r *row) (unshared, follows bool) {
	if lm.linger == 0 || r.LastUsedAt.IsZero() {
		return false, false
	}
	now, u := lm.now(), lm.uses[r.ID]
	known := !u.claimedAt.IsZero()
	if known && !u.claimedAt.Equal(r.UsedBefore.Time) { // another replica has claimed it since
		u.sharedAt = now
	}
	u.claimedAt = r.LastUsedAt.Time
	lm.uses[r.ID] = u
	if len(lm.uses) > 2*lm.pruned+64 {
		for id, u := range lm.uses {
			if lm.held[id] == nil && now.Sub(u.endedAt) > sharedMemory && now.Sub(u.sharedAt) > sharedMemory {
				delete(lm.uses, id)
			}
		}
		lm.pruned = len(lm.uses)
	}
	unshared = known && now.Sub(u.sharedAt) > sharedMemory
	return unshared, unshared && now.Sub(u.endedAt) <= lm.linger
}

// updateUse changes what is remembered of a session. The caller holds the lock.
func (lm *leaseManager) updateUse(id string, change func(*sessionUse)) {
	if u, ok := lm.uses[id]; ok {
		change(&u)
		lm.uses[id] = u
	}
}
