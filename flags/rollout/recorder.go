package rollout

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// Recorder receives the outcomes of requests that concern one rollout. It never
// waits, for the database or anything else, and works whether there is a
// rollout or not.
type Recorder struct {
	name  string
	users userLimiter
	run   atomic.Pointer[runCounters] // of the stage run that is under way, or nil
}

// stageRun is one observation of one stage, from its beginning.
type stageRun struct {
	id           int64
	epoch, stage int
}

// runCounters count the outcomes of one stage run in this process.
type runCounters struct {
	stageRun
	latency, database time.Duration // gates; 0 is none
	arms              [arms]counters
	flushed           [arms]Counts // what the database has; used by the controller alone
}

// counters are the atomic Counts of one arm.
type counters struct {
	outcomes, failures, ignored, slow, dbSlow, latency, db atomic.Int64
	_                                                      [64]byte // the arms do not share a cache line
}

// Sample is how one request ended.
type Sample struct {
	Arm     Arm // see ArmOf; a request of neither arm is not to be recorded
	Outcome Outcome
	// UserID bounds what one user contributes: at most 5 outcomes a minute and
	// replica count. It is kept nowhere.
	UserID string
	// Latency is how long the request took, as the plan means it, and
	// DatabaseTime how much of that was spent in the database. 0 or less is
	// not measured.
	Latency, DatabaseTime time.Duration
}

func newRecorder(name string) *Recorder {
	return &Recorder{name: name, users: userLimiter{seed: maphash.MakeSeed()}}
}

// Record counts how one request ended. It allocates nothing and may be called
// from any goroutine.
func (r *Recorder) Record(s Sample) {
	run := r.run.Load()
	if run == nil || s.Arm >= arms || s.Outcome >= outcomes {
		return
	}
	c := &run.arms[s.Arm]
	if s.Outcome == OutcomeIgnored || s.Outcome == OutcomeSharedFailure && s.Arm == ArmExposed {
		c.ignored.Add(1)
		return
	}
	if !r.users.allow(s.Arm, s.UserID) {
		return
	}
	c.outcomes.Add(1) // first, see counts
	if s.Outcome != OutcomeSuccess {
		c.failures.Add(1)
	}
	if s.Latency > 0 {
		c.latency.Add(s.Latency.Microseconds())
		if run.latency > 0 && s.Latency > run.latency {
			c.slow.Add(1)
		}
	}
	if s.DatabaseTime > 0 {
		c.db.Add(s.DatabaseTime.Microseconds())
		if run.database > 0 && s.DatabaseTime > run.database {
			c.dbSlow.Add(1)
		}
	}
}

// counts returns the figures so far. Outcomes are read last, as they are
// counted first, so that there are never more failures than outcomes.
func (c *counters) counts() Counts {
	n := Counts{Failures: c.failures.Load(), Ignored: c.ignored.Load(), Slow: c.slow.Load(), DatabaseSlow: c.dbSlow.Load(),
		LatencyUS: c.latency.Load(), DatabaseUS: c.db.Load()}
	n.Outcomes = c.outcomes.Load()
	return n
}

// observe makes the recorder count for a stage run; nil is none.
func (r *Recorder) observe(run *stageRun, p Plan) {
	switch c := r.run.Load(); {
	case run == nil:
		r.run.Store(nil)
	case c == nil || c.stageRun != *run:
		r.run.Store(&runCounters{stageRun: *run, latency: p.LatencyP95, database: p.DatabaseP95})
	}
}

// ArmOf returns the arm of a request by its flag's decision: users who have the
// feature are exposed, users outside the percentage are the control. Users whom
// the feature is kept from for another reason are in neither.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	if d.On {
		return ArmExposed, true
	}
	return ArmControl, d.Reason == flags.ReasonOutsidePercentage
}
