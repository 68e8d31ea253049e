package fleet_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

var now = time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)

// healthyInputs returns inputs that meet the condition of no alert.
func healthyInputs() fleet.Inputs {
	return fleet.Inputs{Now: now,
		Replicas: []replica.Replica{{Host: "a", NodeOK: true, State: replica.State{FlagAge: time.Second}}, {Host: "b", NodeOK: true}},
		Chats:    fleet.Chats{Served: 990, Failed: 10, Causes: map[string]int64{"session": 5, "node": 5}},
		Figures:  fleet.Figures{Opens: []fleet.Opens{{Purpose: "request", RecentOpened: 99, RecentFailed: 1}}, FlagChanges: 5, CleanedAt: now.Add(-5 * time.Hour)},
		Sessions: session.Stats{Overdue: 10 * time.Minute},
		Rollouts: []rollout.Status{{Name: "automation", State: "running", Waiting: "time", LookedAt: now.Add(-time.Second)}},
	}
}

// breaches has, for each alert, a change of healthyInputs that just meets its
// condition, and no other alert's.
var breaches = map[string]func(*fleet.Inputs){
	"AutomationNodeUnavailable": func(f *fleet.Inputs) {
		f.Replicas = []replica.Replica{{Host: "a"}, {Host: "b"}}
	},
	"AutomationErrorRateHigh": func(f *fleet.Inputs) {
		f.Chats = fleet.Chats{Served: 82, Failed: 18, Causes: map[string]int64{"session": 9, "internal": 9}}
	},
	"AutomationRequestsFailing": func(f *fleet.Inputs) {
		f.Chats = fleet.Chats{Served: 79, Failed: 21, Causes: map[string]int64{"node": 21}}
	},
	"AutomationSessionSuccessLow": func(f *fleet.Inputs) {
		f.Figures.Opens = []fleet.Opens{{Purpose: "request", RecentOpened: 15}, {Purpose: "renewal", RecentOpened: 3, RecentFailed: 2}}
	},
	"AutomationFlagsStale": func(f *fleet.Inputs) { f.Replicas[0].FlagAge = 61 * time.Second },
	"AutomationRolledBack": func(f *fleet.Inputs) { f.Rollouts[0].State = "rolled_back" },
	"AutomationRolloutUnwatched": func(f *fleet.Inputs) {
		f.Rollouts[0].LookedAt = now.Add(-301 * time.Second)
	},
	"AutomationRolloutPaused": func(f *fleet.Inputs) { f.Rollouts[0].Waiting = "outage" },
	"AutomationReplicaFailing": func(f *fleet.Inputs) {
		f.Replicas[1].Problems = map[string]string{"requests": "5 of 5 failed"}
	},
	"AutomationFlagToggled":     func(f *fleet.Inputs) { f.Figures.FlagChanges = 6 },
	"AutomationFlagMalformed":   func(f *fleet.Inputs) { f.BadFlags = 1 },
	"AutomationSessionsOverdue": func(f *fleet.Inputs) { f.Sessions.Overdue = 16 * time.Minute },
	"AutomationOrphans":         func(f *fleet.Inputs) { f.Figures.Orphans = 1 },
	"AutomationMappingStale":    func(f *fleet.Inputs) { f.StaleMapping = true },
	"AutomationCleanupStalled":  func(f *fleet.Inputs) { f.Figures.CleanedAt = now.Add(-7 * time.Hour) },
}

// prometheusOnly are the alerts that cannot be evaluated on Inputs.
var prometheusOnly = []string{
	"AutomationSettingsErrors", "AutomationChatLatencyUp", "AutomationLatencyAboveControl", "AutomationSettingsLatencyUp", "AutomationAdoptionFalling",
	"AutomationOptOutSpike", "AutomationAuthFailureSpike", "AutomationMaintenanceStuck", "AutomationLeasesLost", "AutomationDatabaseErrors",
	"AutomationDatabasePoolBusy", "AutomationMetricsMissing", "AutomationCensusFailing",
}

func TestAlerts_AgreeWithPrometheus(t *testing.T) {
	if list := fleet.Alerts(healthyInputs()); len(list) != 0 {
		t.Errorf("healthy inputs: alerts %+v, want none", list)
	}
	if list := fleet.Alerts(fleet.Inputs{Now: now}); len(list) != 0 {
		t.Errorf("empty inputs: alerts %+v, want none", list)
	}
	text, err := os.ReadFile("../../../deploy/prometheus/automation.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	severities := map[string]string{}
	for _, rule := range regexp.MustCompile(`(?s)- alert: (\w+)(.*?)severity: (\w+)`).FindAllStringSubmatch(string(text), -1) {
		severities[rule[1]] = rule[3]
	}
	for name, severity := range severities {
		breach, ok := breaches[name]
		if ok == slices.Contains(prometheusOnly, name) {
			t.Errorf("the alert %s must be either in breaches or in prometheusOnly", name)
		}
		if !ok {
			continue
		}
		f := healthyInputs()
		breach(&f)
		list := fleet.Alerts(f)
		if len(list) != 1 || list[0].Name != name || list[0].Severity != severity || list[0].Summary == "" || strings.Contains(list[0].Summary, "%!") {
			t.Errorf("alerts %+v, want only %s (%s) with a summary", list, name, severity)
		}
	}
	for name := range breaches {
		if severities[name] == "" {
			t.Errorf("Prometheus has no alert %s", name)
		}
	}
}

func TestAlerts_NameReplicasAndRollouts(t *testing.T) {
	f := healthyInputs()
	f.Replicas[0].FlagAge, f.Replicas[1].FlagAge = time.Hour, time.Hour
	f.Rollouts[0].State, f.Rollouts[0].Detail = "paused", "48 of 80 requests failed"
	var got []string
	for _, a := range fleet.Alerts(f) {
		got = append(got, a.Summary)
	}
	want := []string{
		"On 2 of 2 replicas, such as a, the flags have not been read for over a minute, so that switching the flag off has no effect there.",
		"The rollout automation is paused, or holds because requests fail: 48 of 80 requests failed.",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summaries (-want +got):\n%s", diff)
	}
}

func TestSumChats_AddsUpReplicas(t *testing.T) {
	list := []replica.Replica{
		{State: replica.State{Figures: replica.Figures{Served: 19, Failed: map[string]int64{"node": 1}, Overhead: []int64{19}}}},
		{State: replica.State{Figures: replica.Figures{Served: 1, Failed: map[string]int64{"node": 2, "session": 1}, Overhead: []int64{0, 1}}}},
		{},
	}
	p95 := 1.0
	want := fleet.Chats{Served: 20, Failed: 4, Causes: map[string]int64{"node": 3, "session": 1}, OverheadP95: &p95}
	if diff := cmp.Diff(want, fleet.SumChats(list)); diff != "" {
		t.Errorf("the sum (-want +got):\n%s", diff)
	}
	if none := fleet.SumChats(nil); none.OverheadP95 != nil || none.Causes == nil {
		t.Errorf("without replicas: %+v, want no percentile and an empty map of causes", none)
	}
}
