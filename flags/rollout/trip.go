package rollout

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// A replica takes itself out when at least tripErrors of the last tripLast
// outcomes failed: 60 %.
const (
	tripLast   = 20
	tripErrors = 12
)

// trip is a replica's own brake, which needs no database.
type trip struct {
	coolDown time.Duration
	last     [arms]ring
	open     atomic.Pointer[opened]
	count    atomic.Int64 // how often it opened
	// How many of them the history and the log have; the controller's own.
	said, logged int64
}

// opened is since when a replica is out.
type opened struct {
	at      time.Time
	version atomic.Int64 // of the flag; 0 until a decision tells
}

// ring is the last outcomes: how many there are in the high half, at most
// tripLast, and which of them failed in the low one.
type ring struct{ atomic.Uint64 }

func (r *ring) push(failed bool) (next uint64) {
	for {
		was := r.Load()
		next = was << 1 & (1<<tripLast - 1)
		if failed {
			next |= 1
		}
		next |= min(was>>32+1, tripLast) << 32
		if r.CompareAndSwap(was, next) {
			return next
		}
	}
}

// fails tells whether a full ring has that many failures.
func fails(ring uint64, most int) bool {
	return ring>>32 == tripLast && bits.OnesCount32(uint32(ring)) >= most
}

// note counts an outcome. When the control arm does half as badly, the cause is
// elsewhere, and going without the feature would help nobody.
func (t *trip) note(arm Arm, failed bool, now func() time.Time) {
	ring := t.last[arm].push(failed)
	if arm == Exposed && failed && fails(ring, tripErrors) && !fails(t.last[Control].Load(), tripErrors/2) && t.open.Load() == nil {
		if t.open.CompareAndSwap(nil, &opened{at: now()}) {
			t.count.Add(1)
		}
	}
}

// tripped tells whether the replica is out for a flag at that version; 0 is not known.
func (t *trip) tripped(version int64, now func() time.Time) bool {
	o := t.open.Load()
	if o == nil {
		return false
	}
	if version != 0 && !o.version.CompareAndSwap(0, version) && o.version.Load() != version || now().Sub(o.at) >= t.coolDown {
		t.last[Exposed].Store(0)
		t.open.CompareAndSwap(o, nil)
		return false
	}
	return true
}

// Tripped tells whether this replica has taken itself out: 12 of the last 20
// outcomes failed, and the control arm fared better. It takes the users back
// after Options.CoolDown, to trip again after 20 requests at the earliest, and
// at once when the flag is changed.
func (r *Recorder) Tripped() bool { return r.trip.tripped(0, r.now) }

// guard is a Decider with the trips before it.
type guard struct {
	flags.Decider
	c *Controller
}

// Decide is the inner Decider's, but for a replica that has tripped: there it
// is as if the process's master switch were off.
func (g guard) Decide(name, user string) flags.Decision {
	d := g.Decider.Decide(name, user)
	if d.On {
		if r := g.c.recorder(name); r != nil && r.trip.tripped(d.Version, g.c.now) {
			d.On, d.Reason = false, flags.ReasonMasterOff
		}
	}
	return d
}

// Decider puts the trips of this process's recorders before a decider, which
// is the flags' watcher. Everything that asks whether a user has the feature is
// to ask it, so that a replica that has tripped is out as a whole.
func (c *Controller) Decider(inner flags.Decider) flags.Decider { return guard{inner, c} }
