package rollout

import "time"

// Arm is which side of the comparison a request was on.
type Arm uint8

const (
	// Exposed requests are those that the feature acted on.
	Exposed Arm = iota
	// Control requests are those of users who may get the feature and do not
	// have it yet.
	Control
	arms
)

// String is the arm's name in the database.
func (a Arm) String() string { return [...]string{"exposed", "control"}[a] }

// Outcome is how a request ended.
type Outcome uint8

const (
	// Success counts.
	Success Outcome = iota
	// Failure is an error of the feature, or, in either arm, of what both arms
	// stand on, such as the provider. It counts.
	Failure
	// CallerError is a request that could not have succeeded. It does not count.
	CallerError
	// HostError is an error of the gateway around the feature. It does not count.
	HostError
	outcomes
)

// Counts are an arm's requests.
type Counts struct {
	Outcomes     int64 `json:"outcomes" db:"outcomes"`     // successes and failures
	Failures     int64 `json:"failures" db:"failures"`     // of the outcomes
	Ignored      int64 `json:"ignored" db:"ignored"`       // errors of callers and of the host, in no other figure
	Slow         int64 `json:"slow" db:"slow"`             // outcomes over Plan.LatencyP95
	DatabaseSlow int64 `json:"database_slow" db:"db_slow"` // outcomes over Plan.DatabaseP95
	LatencyUS    int64 `json:"latency_us" db:"latency_us"` // the outcomes' sum, in microseconds
	DatabaseUS   int64 `json:"database_us" db:"db_us"`     // likewise
}

// ErrorRate is the share of outcomes that failed, 0 to 1; 0 where there are none.
func (c Counts) ErrorRate() float64 { return c.rate(gateErrors) }

// Latency is the outcomes' mean.
func (c Counts) Latency() time.Duration { return mean(c.LatencyUS, c.Outcomes) }

// DatabaseTime is the outcomes' mean.
func (c Counts) DatabaseTime() time.Duration { return mean(c.DatabaseUS, c.Outcomes) }

func mean(us, n int64) time.Duration {
	if n == 0 {
		return 0
	}
	return time.Duration(float64(us) / float64(n) * float64(time.Microsecond))
}

func (c Counts) minus(d Counts) Counts {
	return Counts{c.Outcomes - d.Outcomes, c.Failures - d.Failures, c.Ignored - d.Ignored, c.Slow - d.Slow,
		c.DatabaseSlow - d.DatabaseSlow, c.LatencyUS - d.LatencyUS, c.DatabaseUS - d.DatabaseUS}
}

// Evidence is what has been counted of both arms.
type Evidence struct {
	Exposed Counts `json:"exposed"`
	Control Counts `json:"control"`
}

func (e Evidence) minus(d Evidence) Evidence {
	return Evidence{e.Exposed.minus(d.Exposed), e.Control.minus(d.Control)}
}
