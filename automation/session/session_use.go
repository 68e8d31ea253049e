package session

import "time"

// sessionUse is what a replica remembers of a session that it has used.
type sessionUse struct {
	claimedAt time.Time // when it was last claimed, as the database has it
	endedAt   time.Time // when its last request ended, on our clock
	sharedAt  time.Time // when another replica was last seen to need it
}

// noteUse notes that a request has claimed a session. It reports whether the session
// is this replica's own, because it has used it before and no other one has needed it
// lately, and whether the request follows another one here so closely that lingering
// saves something. The caller holds the lock.
func (lm *leaseManager) noteUse(r *row) (own, follows bool) {
	if lm.linger == 0 || r.LastUsedAt.IsZero() {
		return false, false
	}
	now, u := lm.now(), lm.uses[r.ID]
	known := !u.claimedAt.IsZero()
	if known && !u.claimedAt.Equal(r.UsedBefore.Time) {
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
	own = known && now.Sub(u.sharedAt) > sharedMemory
	return own, own && now.Sub(u.endedAt) <= lm.linger
}

// updateUse changes what is remembered of a session. The caller holds the lock.
func (lm *leaseManager) updateUse(id string, change func(*sessionUse)) {
	if u, ok := lm.uses[id]; ok {
		change(&u)
		lm.uses[id] = u
	}
}
