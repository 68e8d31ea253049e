package rollout

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// Recorder counts the outcomes of requests for which one flag decides. It never
// waits for the database. Without a rollout of the flag it counts nothing.
type Recorder struct{ r *rollout.Recorder }

// Sample is how one request ended.
type Sample struct {
	Arm     Arm // see ArmOf; do not record a request of neither arm
	Outcome Outcome
	// UserID limits what one user contributes: at most 5 outcomes a minute on
	// each replica, and in the exposed arm at most one failure a minute and 10 an
	// hour over all replicas. It is not stored; the database has a hash of it
	// for two hours.
	UserID string
	// Latency is the time that the plan's latency_p95 limits, and DatabaseTime
	// how much of it was spent in the database. 0 or less means that it is
	// unknown.
	Latency, DatabaseTime time.Duration
}

// Record counts how one request ended. It may be called from any goroutine, and
// allocates nothing for a success.
func (r *Recorder) Record(s Sample) {
	r.r.Record(rollout.Sample{Arm: rollout.Arm(s.Arm), Outcome: rollout.Outcome(s.Outcome), UserID: s.UserID, Latency: s.Latency, DatabaseTime: s.DatabaseTime})
}

// Arm is the side of the comparison that a request is on.
type Arm uint8

const (
	// ArmExposed has the requests that the feature acted on.
	ArmExposed = Arm(rollout.ArmExposed)
	// ArmControl has the requests of users who may get the feature and do not
	// have it yet.
	ArmControl = Arm(rollout.ArmControl)
)

// ArmOf returns the arm of a request by its flag's decision. Users who have the
// feature are exposed; users outside the percentage are the control arm. Users who
// do not have it for another reason are in neither arm, and ok is false.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	a, ok := rollout.ArmOf(d)
	return Arm(a), ok
}

// Outcome is how a request ended. Failures differ by their cause, because a cause
// that affects both arms is no evidence against the feature.
type Outcome uint8

const (
	// OutcomeSuccess counts for the feature.
	OutcomeSuccess = Outcome(rollout.OutcomeSuccess)
	// OutcomeFailure is a failure of the feature itself, and counts against it.
	OutcomeFailure = Outcome(rollout.OutcomeFailure)
	// OutcomeProviderFailure counts against the feature only if the control arm
	// fails clearly less often.
	OutcomeProviderFailure = Outcome(rollout.OutcomeProviderFailure)
	// OutcomeSharedFailure is a failure of what both arms depend on, such as
	// the node or the database. It is no evidence, and makes the stage wait.
	OutcomeSharedFailure = Outcome(rollout.OutcomeSharedFailure)
	// OutcomeIgnored is no evidence, such as an error of the caller.
	OutcomeIgnored = Outcome(rollout.OutcomeIgnored)
)
