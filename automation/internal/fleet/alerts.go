package fleet

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func sortByTime(list []Failure) {
	slices.SortStableFunc(list, func(a, b Failure) int { return b.At.Compare(a.At) })
}

// Alert is one of deploy/prometheus whose condition is met now. Prometheus waits
// a little before it fires.
type Alert struct {
	Name     string `json:"name"`
	Severity string `json:"severity"` // critical or warning
	Summary  string `json:"summary"`
}

// Facts are what alerts are evaluated on.
type Facts struct {
	Now      time.Time
	Replicas []replica.Replica
	Chats    Chats
	Figures  Figures
	Sessions session.Stats
	Rollouts []rollout.Status
	// BadFlags are rows of feature_flags, and StaleMapping a mapping or feed,
	// that this replica cannot read.
	BadFlags     int
	StaleMapping bool
}

const (
	critical = "critical"
	warning  = "warning"
)

// rules are the alerts that the database and the replicas' reports can answer,
// by the rules of deploy/prometheus/automation.rules.yml. The others compare with
// a day or a week ago, or look into one process. Each returns what is the case,
// or nothing.
var rules = []struct {
	name, severity string
	evaluate       func(Facts) string
}{
	{"AutomationNodeUnavailable", critical, func(f Facts) string {
		if len(f.Replicas) == 0 || slices.ContainsFunc(f.Replicas, func(r replica.Replica) bool { return r.NodeOK }) {
			return ""
		}
		return "No replica reaches the Morpheus node."
	}},
	{"AutomationErrorRateHigh", critical, func(f Facts) string {
		if n := f.Chats.total(); n < 20 || wilsonLow(f.Chats.own(), n) <= .05 {
			return ""
		}
		return fmt.Sprintf("%d of %d requests failed through automation itself in five minutes. Roll back.", f.Chats.own(), f.Chats.total())
	}},
	{"AutomationRequestsFailing", critical, func(f Facts) string {
		if failed := f.Chats.Failed; failed < 10 || float64(failed) <= .2*float64(f.Chats.total()) {
			return ""
		}
		return fmt.Sprintf("%d of %d requests failed in five minutes, for any cause.", f.Chats.Failed, f.Chats.total())
	}},
	{"AutomationSessionSuccessLow", critical, func(f Facts) string {
		var opened, failed int64
		for _, o := range f.Figures.Opens {
			opened, failed = opened+o.RecentOpened, failed+o.RecentFailed
		}
		if n := opened + failed; n < 20 || float64(opened) >= .95*float64(n) {
			return ""
		}
		return fmt.Sprintf("%d of the %d sessions asked for in half an hour were not opened.", failed, opened+failed)
	}},
	{"AutomationFlagsStale", critical, func(f Facts) string {
		return replicasText(f.Replicas, func(r replica.Replica) bool { return r.FlagAge > time.Minute || r.Problems["flags"] == "never read" },
			"the flags were not read for over a minute, and switching off would not arrive")
	}},
	{"AutomationRolledBack", critical, func(f Facts) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool { return r.State == "rolled_back" }, "has been taken back by itself")
	}},
	{"AutomationRolloutUnwatched", critical, func(f Facts) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool {
			return r.State == "running" && f.Now.Sub(r.LookedAt) > 5*time.Minute
		}, "runs, and no replica has looked at it for five minutes")
	}},
	{"AutomationRolloutPaused", warning, func(f Facts) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool {
			return r.State == "paused" || r.State == "running" && (r.Waiting == "breach" || r.Waiting == "outage")
		}, "is paused, or holds because requests fail")
	}},
	{"AutomationReplicaFailing", warning, func(f Facts) string {
		return replicasText(f.Replicas, func(r replica.Replica) bool { return r.Problems["requests"] != "" },
			"most requests fail, for reasons that other replicas may not share")
	}},
	{"AutomationFlagToggled", warning, func(f Facts) string {
		if f.Figures.FlagChanges < 6 {
			return ""
		}
		return fmt.Sprintf("The flag has changed %d times within an hour.", f.Figures.FlagChanges)
	}},
	{"AutomationFlagMalformed", warning, func(f Facts) string {
		if f.BadFlags == 0 {
			return ""
		}
		return fmt.Sprintf("%d rows of feature_flags cannot be read; their flags stay as they were.", f.BadFlags)
	}},
	{"AutomationSessionsOverdue", warning, func(f Facts) string {
		if f.Sessions.Overdue <= 15*time.Minute {
			return ""
		}
		return fmt.Sprintf("A session has waited for maintenance for %v.", f.Sessions.Overdue.Round(time.Minute))
	}},
	{"AutomationOrphans", warning, func(f Facts) string {
		if f.Figures.Orphans == 0 {
			return ""
		}
		return fmt.Sprintf("It is not known of %d opens whether they were paid.", f.Figures.Orphans)
	}},
	{"AutomationMappingStale", warning, func(f Facts) string {
		if !f.StaleMapping {
			return ""
		}
		return "The models' mapping cannot be read on this replica; the last good state serves."
	}},
	{"AutomationCleanupStalled", warning, func(f Facts) string {
		if f.Figures.CleanedAt.IsZero() || f.Now.Sub(f.Figures.CleanedAt) <= 6*time.Hour {
			return ""
		}
		return fmt.Sprintf("No replica has finished a clean-up for %v.", f.Now.Sub(f.Figures.CleanedAt).Round(time.Hour))
	}},
}

// Alerts returns those whose condition is met, critical ones first.
func Alerts(f Facts) []Alert {
	list := []Alert{}
	for _, r := range rules {
		if summary := r.evaluate(f); summary != "" {
			list = append(list, Alert{r.name, r.severity, summary})
		}
	}
	return list
}

// replicasText names the replicas of which something holds.
func replicasText(list []replica.Replica, holds func(replica.Replica) bool, what string) string {
	var hosts []string
	for _, r := range list {
		if holds(r) {
			hosts = append(hosts, r.Host)
		}
	}
	switch n := len(hosts); n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("On %s, one of %d replicas, %s.", hosts[0], len(list), what)
	default:
		return fmt.Sprintf("On %d of %d replicas, such as %s, %s.", n, len(list), hosts[0], what)
	}
}

func rolloutText(list []rollout.Status, holds func(rollout.Status) bool, what string) string {
	for _, r := range list {
		if !holds(r) {
			continue
		}
		if r.Detail != "" {
			return fmt.Sprintf("The rollout %s %s: %s.", r.Name, what, r.Detail)
		}
		return fmt.Sprintf("The rollout %s %s.", r.Name, what)
	}
	return ""
}

// Chats are the requests on the chat path of the last five minutes, over all
// replicas.
type Chats struct {
	Served int64            `json:"served"`
	Failed int64            `json:"failed"`
	Causes map[string]int64 `json:"causes"` // of those that failed
	// OverheadP95 is what automation added to a served request at most, for 95
	// of 100, in milliseconds; null without any.
	OverheadP95 *float64 `json:"overhead_p95_ms"`
}

// SumChats adds up what the replicas reported.
func SumChats(replicas []replica.Replica) Chats {
	var sum replica.Figures
	for _, r := range replicas {
		sum.Add(r.Figures)
	}
	c := Chats{Served: sum.Served, Causes: map[string]int64{}}
	for cause, n := range sum.Failed {
		c.Causes[cause] = n
		c.Failed += n
	}
	if p95, ok := sum.OverheadP95(); ok {
		ms := float64(p95.Microseconds()) / 1000
		c.OverheadP95 = &ms
	}
	return c
}

func (c Chats) total() int64 { return c.Served + c.Failed }

// own are the failures of automation itself.
func (c Chats) own() (n int64) {
	for cause, count := range c.Causes {
		if policy.Of(outcome.Cause(cause)).Evidence == policy.EvidenceFailure {
			n += count
		}
	}
	return n
}

// wilsonLow is the lower bound of the share, 3.09 standard errors below it.
func wilsonLow(failed, of int64) float64 {
	const z = 3.09
	n, p := float64(of), float64(failed)/float64(of)
	return (p + z*z/(2*n) - z*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))) / (1 + z*z/n)
}
