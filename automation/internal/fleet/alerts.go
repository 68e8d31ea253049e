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

// Alert is an alert of deploy/prometheus whose condition is met now. Prometheus
// fires it only after the time of the rule's "for".
type Alert struct {
	Name     string `json:"name"`
	Severity string `json:"severity"` // critical or warning
	Summary  string `json:"summary"`
}

// Inputs is what the alerts' conditions are evaluated on.
type Inputs struct {
	Now          time.Time
	Replicas     []replica.Replica
	Chats        Chats
	Figures      Figures
	Sessions     session.Stats
	Rollouts     []rollout.Status
	BadFlags     int  // rows of feature_flags that this replica cannot read
	StaleMapping bool // this replica cannot read the mapping or the feed
}

const (
	critical = "critical"
	warning  = "warning"
)

// rules are the alerts of deploy/prometheus/automation.rules.yml that can be
// evaluated on Inputs. The other alerts compare with a day or a week ago, or need
// metrics that only Prometheus has. evaluate returns the alert's summary, or "" if
// its condition is not met.
var rules = []struct {
	name, severity string
	evaluate       func(Inputs) string
}{
	{"AutomationNodeUnavailable", critical, func(f Inputs) string {
		if len(f.Replicas) == 0 || slices.ContainsFunc(f.Replicas, func(r replica.Replica) bool { return r.NodeOK }) {
			return ""
		}
		return "No replica reaches the Morpheus node."
	}},
	{"AutomationErrorRateHigh", critical, func(f Inputs) string {
		failed, n := f.Chats.automationFailed(), f.Chats.total()
		if n < 20 || wilsonLow(failed, n) <= .05 {
			return ""
		}
		return fmt.Sprintf("%d of %d requests failed through automation itself in five minutes. Roll back.", failed, n)
	}},
	{"AutomationRequestsFailing", critical, func(f Inputs) string {
		if failed := f.Chats.Failed; failed < 10 || float64(failed) <= .2*float64(f.Chats.total()) {
			return ""
		}
		return fmt.Sprintf("%d of %d requests failed in five minutes, for any cause.", f.Chats.Failed, f.Chats.total())
	}},
	{"AutomationSessionSuccessLow", critical, func(f Inputs) string {
		var opened, failed int64
		for _, o := range f.Figures.Opens {
			opened, failed = opened+o.RecentOpened, failed+o.RecentFailed
		}
		if n := opened + failed; n < 20 || float64(opened) >= .95*float64(n) {
			return ""
		}
		return fmt.Sprintf("%d of the %d sessions requested in half an hour were not opened.", failed, opened+failed)
	}},
	{"AutomationFlagsStale", critical, func(f Inputs) string {
		return replicasText(f.Replicas, func(r replica.Replica) bool { return r.FlagAge > time.Minute || r.Problems["flags"] == "never read" },
			"the flags have not been read for over a minute, so that switching the flag off has no effect there")
	}},
	{"AutomationRolledBack", critical, func(f Inputs) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool { return r.State == "rolled_back" }, "was rolled back automatically")
	}},
	{"AutomationRolloutUnwatched", critical, func(f Inputs) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool {
			return r.State == "running" && f.Now.Sub(r.LookedAt) > 5*time.Minute
		}, "runs, but no replica has evaluated it for five minutes")
	}},
	{"AutomationRolloutPaused", warning, func(f Inputs) string {
		return rolloutText(f.Rollouts, func(r rollout.Status) bool {
			return r.State == "paused" || r.State == "running" && (r.Waiting == "breach" || r.Waiting == "outage")
		}, "is paused, or holds because requests fail")
	}},
	{"AutomationReplicaFailing", warning, func(f Inputs) string {
		return replicasText(f.Replicas, func(r replica.Replica) bool { return r.Problems["requests"] != "" },
			"most requests fail, for reasons that other replicas may not share")
	}},
	{"AutomationFlagToggled", warning, func(f Inputs) string {
		if f.Figures.FlagChanges < 6 {
			return ""
		}
		return fmt.Sprintf("The flag has changed %d times within an hour.", f.Figures.FlagChanges)
	}},
	{"AutomationFlagMalformed", warning, func(f Inputs) string {
		if f.BadFlags == 0 {
			return ""
		}
		return fmt.Sprintf("%d rows of feature_flags cannot be read; their flags stay as they were.", f.BadFlags)
	}},
	{"AutomationSessionsOverdue", warning, func(f Inputs) string {
		if f.Sessions.Overdue <= 15*time.Minute {
			return ""
		}
		return fmt.Sprintf("A session has waited for maintenance for %v.", f.Sessions.Overdue.Round(time.Minute))
	}},
	{"AutomationOrphans", warning, func(f Inputs) string {
		if f.Figures.Orphans == 0 {
			return ""
		}
		return fmt.Sprintf("The result of %d opens is unknown: they may have been paid.", f.Figures.Orphans)
	}},
	{"AutomationMappingStale", warning, func(f Inputs) string {
		if !f.StaleMapping {
			return ""
		}
		return "The models' mapping cannot be read on this replica; the last good state serves."
	}},
	{"AutomationCleanupStalled", warning, func(f Inputs) string {
		if f.Figures.CleanedAt.IsZero() || f.Now.Sub(f.Figures.CleanedAt) <= 6*time.Hour {
			return ""
		}
		return fmt.Sprintf("No replica has finished a clean-up for %v.", f.Now.Sub(f.Figures.CleanedAt).Round(time.Hour))
	}},
}

// Alerts returns the alerts whose condition is met, critical ones first.
func Alerts(f Inputs) []Alert {
	list := []Alert{}
	for _, r := range rules {
		if summary := r.evaluate(f); summary != "" {
			list = append(list, Alert{r.name, r.severity, summary})
		}
	}
	return list
}

// replicasText describes a problem, on how many replicas it is, and names one of
// them. It returns "" if no replica has the problem.
func replicasText(list []replica.Replica, hasProblem func(replica.Replica) bool, problem string) string {
	var hosts []string
	for _, r := range list {
		if hasProblem(r) {
			hosts = append(hosts, r.Host)
		}
	}
	switch n := len(hosts); n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("On %s, one of %d replicas, %s.", hosts[0], len(list), problem)
	default:
		return fmt.Sprintf("On %d of %d replicas, such as %s, %s.", n, len(list), hosts[0], problem)
	}
}

// rolloutText describes the first rollout that has a problem. It returns "" if
// none has.
func rolloutText(list []rollout.Status, hasProblem func(rollout.Status) bool, problem string) string {
	for _, r := range list {
		if !hasProblem(r) {
			continue
		}
		if r.Detail != "" {
			return fmt.Sprintf("The rollout %s %s: %s.", r.Name, problem, r.Detail)
		}
		return fmt.Sprintf("The rollout %s %s.", r.Name, problem)
	}
	return ""
}

// Chats counts the requests on the chat path in the last five minutes, on all
// replicas.
type Chats struct {
	Served int64            `json:"served"`
	Failed int64            `json:"failed"`
	Causes map[string]int64 `json:"causes"` // failed requests by cause
	// OverheadP95 is the 95th percentile of the milliseconds that automation
	// added to a served request; null if none was served.
	OverheadP95 *float64 `json:"overhead_p95_ms"`
}

// SumChats adds up the replicas' reports.
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

// automationFailed counts the failures that are evidence against automation.
func (c Chats) automationFailed() (n int64) {
	for cause, count := range c.Causes {
		if policy.Of(outcome.Cause(cause)).Evidence == policy.EvidenceFailure {
			n += count
		}
	}
	return n
}

// wilsonLow is the lower bound of the one-sided 99.9 % Wilson score interval of
// failed/total.
func wilsonLow(failed, total int64) float64 {
	const z = 3.09
	n, p := float64(total), float64(failed)/float64(total)
	return (p + z*z/(2*n) - z*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))) / (1 + z*z/n)
}
