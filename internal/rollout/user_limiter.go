package rollout

import (
	"hash/maphash"
	"sync/atomic"
)

// outcomesPerMinute bounds how many outcomes one user contributes in a minute,
// per arm and replica.
const outcomesPerMinute = 5

// userLimiter bounds what one user contributes. Users share the slots of a
// table by a seeded hash; two users in one slot share its bound, which loses
// some outcomes and is otherwise harmless. No id is kept.
type userLimiter struct {
	seed   maphash.Seed
	minute atomic.Uint64
	slots  [arms][slots]atomic.Uint64 // the minute, and in the low byte the outcomes in it
}

const slots = 1 << 13 // 64 KiB an arm

// allow reports whether one more outcome of the user counts in this minute.
func (l *userLimiter) allow(arm Arm, user string) bool {
	slot := &l.slots[arm][maphash.String(l.seed, user)%slots]
	minute := l.minute.Load() << 8
	for {
		was := slot.Load()
		next := was + 1
		if was&^0xff != minute {
			next = minute + 1
		} else if was&0xff >= outcomesPerMinute {
			return false
		}
		if slot.CompareAndSwap(was, next) {
			return true
		}
	}
}
