package rollout

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// Plan is the stages of a rollout in their order, and when to roll back. The
// zero value of a field is the default that its comment names. In JSON,
// percentages are numbers and durations are strings such as "24h".
type Plan struct {
	Stages []Stage `json:"stages"` // 1 to 100
	// OnBreach is what happens when a limit is exceeded; "" is BreachRollback.
	OnBreach OnBreach `json:"on_breach"`
	// Limit is the share of requests that may fail, at most 50 %; 0 is 5 %.
	Limit flags.Percentage `json:"limit"`
	// MinUsers is how many different users must have failures for a rollback, at
	// most 1,000; 0 is 5.
	MinUsers int `json:"min_users"`
	// At most 5 % of the requests may take longer than LatencyP95, or spend more
	// time in the database than DatabaseP95. Each is at most 1 h; 0 is no limit.
	// Slow requests roll back only if the control arm has clearly fewer of them;
	// a slow database makes the stage wait and never rolls back.
	LatencyP95  time.Duration `json:"latency_p95"`
	DatabaseP95 time.Duration `json:"database_p95"`
	// Notice is the flag's notice to users from a rollback or an abort until
	// the restart; "" leaves the flag's own. At most 4,096 bytes.
	Notice string `json:"notice"`
}

// Stage is one step of a plan.
type Stage struct {
	Name       string           `json:"name"`       // unique in the plan, at most 64 bytes
	Percentage flags.Percentage `json:"percentage"` // of the flag; never less than the stage before
	// Users are added to the flag's enabled_user_ids, as are those of the stages
	// before. Users who are listed already stay, unless a later stage adds them.
	Users flags.IDs `json:"users"`
	// Hold is how long the stage is watched at least: 0 to 366 days. Only time in
	// which a replica evaluates the rollout counts.
	Hold time.Duration `json:"hold"`
	// MinSamples is how many outcomes the stage needs at least, a quarter of them
	// in each quarter of the hold. The stage waits for them without a time limit.
	MinSamples int64 `json:"min_samples"`
	// Approval makes the stage wait for ActionApprove.
	Approval bool `json:"approval"`
}

// OnBreach is what happens when a limit is exceeded.
type OnBreach string

const (
	// BreachRollback goes back to the last stage with fewer users, and pauses the
	// rollout there. It switches the flag off and ends the rollout if there is no
	// such stage, or if that stage fails as well.
	BreachRollback OnBreach = "rollback"
	// BreachOff switches the flag off and ends the rollout.
	BreachOff OnBreach = "off"
	// BreachPause pauses the rollout and leaves the flag as it is.
	BreachPause OnBreach = "pause"
	// BreachNotify writes an event. The stage waits while the breach lasts.
	BreachNotify OnBreach = "notify"
)

// DefaultPlan returns the deployment plan: the users whom the flag lists already,
// 10 %, 50 %, and 100 % under watch, rolled back when more than 5 % fail.
func DefaultPlan() Plan {
	const day = 24 * time.Hour
	return Plan{
		Stages: []Stage{
			{Name: "internal", Hold: day, MinSamples: 20},
			{Name: "10 %", Percentage: 10 * flags.Percent, Hold: day, MinSamples: 100},
			{Name: "50 %", Percentage: 50 * flags.Percent, Hold: day, MinSamples: 200},
			{Name: "100 %", Percentage: 100 * flags.Percent, Hold: 3 * day, MinSamples: 200},
		},
		OnBreach: BreachRollback, Limit: 5 * flags.Percent, MinUsers: 5,
		LatencyP95: 30 * time.Second, DatabaseP95: 250 * time.Millisecond,
		Notice: "Automation is switched off for the time being. Requests with a session of your own work as before.",
	}
}

// withDefaults fills in what is zero.
func (p Plan) withDefaults() Plan {
	if p.OnBreach == "" {
		p.OnBreach = BreachRollback
	}
	if p.Limit == 0 {
		p.Limit = 5 * flags.Percent
	}
	if p.MinUsers == 0 {
		p.MinUsers = 5
	}
	return p
}

// users returns the flag's list of users in a stage: the users of this stage and
// of those before it, and the ones listed already that no later stage adds.
func (p Plan) users(listed flags.IDs, stage int) flags.IDs {
	var ids, later []string
	for i, s := range p.Stages {
		if i <= stage {
			ids = append(ids, s.Users.List()...)
		} else {
			later = append(later, s.Users.List()...)
		}
	}
	excluded := flags.NewIDs(later...)
	for _, id := range listed.List() {
		if !excluded.Has(id) {
			ids = append(ids, id)
		}
	}
	return flags.NewIDs(ids...)
}

// stepBack returns the last stage before the given one in which fewer users have
// the feature; ok is false if there is none.
func (p Plan) stepBack(stage int) (before int, ok bool) {
	fewer := false
	for before = stage - 1; before >= 0; before-- {
		fewer = fewer || p.Stages[before+1].Users.Len() > 0 || p.Stages[before].Percentage < p.Stages[before+1].Percentage
		if fewer {
			return before, true
		}
	}
	return 0, false
}

// hasUsers reports whether any stage of the plan adds users.
func (p Plan) hasUsers() bool {
	for _, s := range p.Stages {
		if s.Users.Len() > 0 {
			return true
		}
	}
	return false
}
