package rollout

import (
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// Recorder takes the outcomes of requests that concern one rollout. It never
// waits, for the database or anything else, and works whether there is a
// rollout or not.
type Recorder struct {
	name string
	now  func() time.Time
	caps caps
	trip trip
	// tally is the bake that is on, or nil.
	tally atomic.Pointer[tally]
}

// tally counts one bake's outcomes in this process.
type tally struct {
	bake
	latency, database time.Duration // gates; 0 is none
	arms              [arms]counters
	told              [arms]Counts // what the database has; the controller's own
}

// bake is one watch of one stage, from its beginning.
type bake struct {
	id           int64
	epoch, stage int
}

// counters are the atomic Counts of one arm.
type counters struct {
	outcomes, failures, ignored, slow, dbSlow, latency, db atomic.Int64
	_                                                      [64]byte // the arms do not share a cache line
}

// Record counts how one request ended. Latency is how long it took, as the
// plan means it, and dbTime how much of that was spent in the database; 0 where
// that is not known. The user's id goes no further than the memory of this
// process: it bounds what one user can contribute to Options.UserPerMinute
// outcomes a minute. What is over does not count. A negative duration is 0.
//
// A request whose user ArmOf gives no arm is not to be recorded.
func (r *Recorder) Record(arm Arm, outcome Outcome, user string, latency, dbTime time.Duration) {
	if arm >= arms || outcome >= outcomes {
		return
	}
	t := r.tally.Load()
	if outcome == CallerError || outcome == HostError {
		if t != nil {
			t.arms[arm].ignored.Add(1)
		}
		return
	}
	if !r.caps.admit(arm, user) {
		return
	}
	r.trip.note(arm, outcome == Failure, r.now)
	if t == nil {
		return
	}
	c := &t.arms[arm]
	c.outcomes.Add(1) // first, see counts
	if outcome == Failure {
		c.failures.Add(1)
	}
	if latency > 0 {
		c.latency.Add(latency.Microseconds())
		if t.latency > 0 && latency > t.latency {
			c.slow.Add(1)
		}
	}
	if dbTime > 0 {
		c.db.Add(dbTime.Microseconds())
		if t.database > 0 && dbTime > t.database {
			c.dbSlow.Add(1)
		}
	}
}

// counts are the figures by now. Outcomes are read last, as they are counted
// first, so that there are never more bad ones than there are outcomes.
func (c *counters) counts() Counts {
	n := Counts{Failures: c.failures.Load(), Ignored: c.ignored.Load(), Slow: c.slow.Load(), DatabaseSlow: c.dbSlow.Load(),
		LatencyUS: c.latency.Load(), DatabaseUS: c.db.Load()}
	n.Outcomes = c.outcomes.Load()
	return n
}

// watch makes the recorder count for a bake; nil is none.
func (r *Recorder) watch(b *bake, p Plan) {
	switch t := r.tally.Load(); {
	case b == nil:
		r.tally.Store(nil)
	case t == nil || t.bake != *b:
		r.tally.Store(&tally{bake: *b, latency: p.LatencyP95, database: p.DatabaseP95})
	}
}

// ArmOf tells on which side a request is by its flag's decision: who has the
// feature is exposed, who is outside the percentage and no more is the control.
// Others, whom the feature is kept from for another reason, belong to neither.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	if d.On {
		return Exposed, true
	}
	return Control, d.Reason == flags.ReasonOutsidePercentage
}
