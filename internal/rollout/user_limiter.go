package rollout

import (
	"hash/maphash"
	"sync/atomic"
)

// outcomesPerMinute bounds how many outcomes one user contributes in a minute,
// per arm and replica.
const outcomesPerMinute = 5

// userLimiter bounds what one user contributes. A seeded hash of the user's id
// selects a slot of a table, and no id is kept. Two users in one slot share its
// bound, so that some of their outcomes may not count.
type userLimiter struct {
	seed   maphash.Seed
	minute atomic.Uint64                    // the current Unix minute
	slots  [arms][slotsPerArm]atomic.Uint64 // a Unix minute, and in the low byte the outcomes in it
}

const slotsPerArm = 1 << 13 // 64 KiB

// allow reports whether one more outcome of the user counts in this minute, and
// counts it.
func (l *userLimiter) allow(arm Arm, user string) bool {
	slot := &l.slots[arm][maphash.String(l.seed, user)%slotsPerArm]
	minute := l.minute.Load() << 8
	for {
		old := slot.Load()
		next := old + 1
		if old&^0xff != minute {
			next = minute + 1
		} else if old&0xff >= outcomesPerMinute {
			return false
		}
		if slot.CompareAndSwap(old, next) {
			return true
		}
	}
}
