package rollout

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// Recorder receives the outcomes of requests that concern one rollout. It never
// waits for the database, and works whether there is a rollout or not.
type Recorder struct{ r *rollout.Recorder }

// Sample is how one request ended.
type Sample struct {
	Arm     Arm // see ArmOf; a request of neither arm is not to be recorded
	Outcome Outcome
	// UserID bounds what one user contributes: at most 5 outcomes a minute and
	// replica, and of the exposed arm's failures at most one a minute over all
	// replicas. It is kept nowhere; the database has a hash for two hours.
	UserID string
	// Latency is how long the request took, as the plan means it, and
	// DatabaseTime how much of that was spent in the database. 0 or less is
	// not measured.
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

// ArmOf returns the arm of a request by its flag's decision: users who have the
// feature are exposed, users outside the percentage are the control. Users whom
// the feature is kept from for another reason are in neither.
func ArmOf(d flags.Decision) (arm Arm, ok bool) {
	a, ok := rollout.ArmOf(d)
	return Arm(a), ok
}

// Outcome is how a request ended. It is a failure by its cause: what both arms
// suffer is no evidence against the feature.
type Outcome uint8

const (
	// OutcomeSuccess counts for the feature.
	OutcomeSuccess = Outcome(rollout.OutcomeSuccess)
	// OutcomeFailure is a failure of the feature itself, and counts against it.
	OutcomeFailure = Outcome(rollout.OutcomeFailure)
	// OutcomeProviderFailure counts against the feature only where the control
	// arm fares better.
	OutcomeProviderFailure = Outcome(rollout.OutcomeProviderFailure)
	// OutcomeSharedFailure is a failure of what both arms depend on, such as
	// the node or the database. It is no evidence, and holds the stage.
	OutcomeSharedFailure = Outcome(rollout.OutcomeSharedFailure)
	// OutcomeIgnored is no evidence, such as an error of the caller.
	OutcomeIgnored = Outcome(rollout.OutcomeIgnored)
)
