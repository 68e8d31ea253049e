package rollout

import (
	"hash/maphash"
	"sync/atomic"
)

// caps bound what one user can contribute. Users share the slots of a table by
// a hash that nobody outside can foresee; two who meet in one share its bound,
// which loses some outcomes and harms nothing. No id is kept.
type caps struct {
	most   uint64
	seed   maphash.Seed
	minute atomic.Uint64
	slots  [arms][slots]atomic.Uint64 // the minute, and in the low byte the outcomes in it
}

const (
	slots   = 1 << 13 // 64 KiB an arm
	maxUser = 255     // outcomes a minute that fit a slot
)

func (c *caps) admit(arm Arm, user string) bool {
	slot := &c.slots[arm][maphash.String(c.seed, user)%slots]
	minute := c.minute.Load() << 8
	for {
		was := slot.Load()
		next := was + 1
		if was&^0xff != minute {
			next = minute + 1
		} else if was&0xff >= c.most {
			return false
		}
		if slot.CompareAndSwap(was, next) {
			return true
		}
	}
}
