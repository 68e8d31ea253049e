package rollout

import "time"

// Arm is the side of the comparison that a request is on.
type Arm uint8

const (
	// ArmExposed has the requests that the feature acted on.
	ArmExposed Arm = iota
	// ArmControl has the requests of users who may get the feature and do not
	// have it yet.
	ArmControl
	arms // how many there are
)

// String returns the arm's name in the database.
func (a Arm) String() string { return [...]string{"exposed", "control"}[a] }

// Outcome is how a request ended. Failures differ by their cause, because a cause
// that affects both arms is no evidence against the feature.
type Outcome uint8

const (
	// OutcomeSuccess counts for the feature.
	OutcomeSuccess Outcome = iota
	// OutcomeFailure is a failure of the feature itself, and counts against it.
	OutcomeFailure
	// OutcomeProviderFailure counts against the feature only if the control arm
	// fails clearly less often.
	OutcomeProviderFailure
	// OutcomeSharedFailure is a failure of what both arms depend on, such as
	// the node or the database. It is no evidence, and makes the stage wait.
	OutcomeSharedFailure
	// OutcomeIgnored is no evidence, such as an error of the caller.
	OutcomeIgnored
	outcomes // how many there are
)

// Counts are the requests of one arm.
type Counts struct {
	Outcomes         int64 `json:"outcomes" db:"outcomes"`                   // successes and failures
	Failures         int64 `json:"failures" db:"failures"`                   // included in Outcomes
	ProviderFailures int64 `json:"provider_failures" db:"provider_failures"` // included in Failures
	Slow             int64 `json:"slow" db:"slow"`                           // successes that took longer than Plan.LatencyP95
	DatabaseSlow     int64 `json:"database_slow" db:"db_slow"`               // outcomes that took longer than Plan.DatabaseP95 in the database
	LatencyUS        int64 `json:"latency_us" db:"latency_us"`               // the sum over the outcomes, in microseconds
	DatabaseUS       int64 `json:"database_us" db:"db_us"`                   // the sum over the outcomes, in microseconds
	SharedFailures   int64 `json:"shared_failures" db:"shared_failures"`     // not included in Outcomes
	Ignored          int64 `json:"ignored" db:"ignored"`                     // not included in Outcomes
}

// ErrorRate is the share of outcomes that failed, 0 to 1; 0 where there are none.
func (c Counts) ErrorRate() float64 { return share(c.Failures, c.Outcomes) }

// Latency is the mean latency of the outcomes; 0 where there are none.
func (c Counts) Latency() time.Duration { return mean(c.LatencyUS, c.Outcomes) }

// DatabaseTime is the mean time in the database of the outcomes; 0 where there
// are none.
func (c Counts) DatabaseTime() time.Duration { return mean(c.DatabaseUS, c.Outcomes) }

func mean(us, n int64) time.Duration {
	if n == 0 {
		return 0
	}
	return time.Duration(float64(us) / float64(n) * float64(time.Microsecond))
}

func share(part, whole int64) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func (c Counts) minus(d Counts) Counts {
	return Counts{c.Outcomes - d.Outcomes, c.Failures - d.Failures, c.ProviderFailures - d.ProviderFailures, c.Slow - d.Slow,
		c.DatabaseSlow - d.DatabaseSlow, c.LatencyUS - d.LatencyUS, c.DatabaseUS - d.DatabaseUS, c.SharedFailures - d.SharedFailures, c.Ignored - d.Ignored}
}

// Evidence has the counts of both arms.
type Evidence struct {
	Exposed Counts `json:"exposed"`
	Control Counts `json:"control"`
}

func (e Evidence) minus(d Evidence) Evidence {
	return Evidence{e.Exposed.minus(d.Exposed), e.Control.minus(d.Control)}
}
