package console

import (
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func TestFormatDuration_WritesTheTwoLargestUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0 s",
		59 * time.Second:              "59 s",
		time.Minute:                   "1 min",
		90 * time.Second:              "1 min 30 s",
		time.Hour + 30*time.Second:    "1 h",
		24 * time.Hour:                "24 h",
		25*time.Hour + 90*time.Minute: "26 h 30 min",
		72 * time.Hour:                "3 d",
		75*time.Hour + 59*time.Minute: "3 d 3 h",
		1499 * time.Millisecond:       "1 s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%v) is %q, want %q", d, got, want)
		}
	}
}

func TestErrorChart_BeginsWithTheFirstPoint(t *testing.T) {
	if chart := errorChart(nil, .05); chart != "" {
		t.Errorf("the chart of no points is %s, want none", chart)
	}
	one := []rollout.Point{{At: time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC), Exposed: rollout.Counts{Outcomes: 10, Failures: 1}}}
	chart := string(errorChart(one, .05))
	if !strings.Contains(chart, "02:59") || !strings.Contains(chart, `class="exposed" d="M`) || strings.Contains(chart, "NaN") || strings.Contains(chart, "Inf") {
		t.Errorf("the chart of one point, want it to begin a minute earlier and to have a line: %s", chart)
	}
}

func TestReach_DescribesForWhomAFlagIsOn(t *testing.T) {
	for _, test := range []struct {
		percentage flags.Percentage
		listed     int
		want       string
	}{{0, 0, "nobody"}, {0, 1, "1 internal user"}, {0, 1200, "1 200 internal users"}, {1250, 0, "12.5 %"}, {1000, 3, "10 % and 3 internal users"}, {10_000, 3, "100 %"}} {
		if got := reach(test.percentage, test.listed); got != test.want {
			t.Errorf("reach of %v %% and %d listed users is %q, want %q", test.percentage, test.listed, got, test.want)
		}
	}
}

func TestStatus_HighlightsAtMostOneAction(t *testing.T) {
	for _, test := range []struct {
		state                 rollout.State
		waiting, reason, want string
	}{
		{"running", "", "", "pause"},
		{"running", "samples", "", "pause"},
		{"running", "approval", "", "approve"},
		{"paused", "", "operator", "resume"},
		{"paused", "", "breach", ""}, // the operator has to find the causes first
	} {
		primary := ""
		for _, action := range rolloutActions {
			switch button := (status{rollout.Status{State: test.state, Waiting: test.waiting, Reason: test.reason}}).ButtonStyle(action.Name); button {
			case "primary":
				primary += action.Name
			case "risk", "danger":
				if action.Name != "skip" && action.Name != "promote" && action.Name != "abort" {
					t.Errorf("a rollout that is %s (waiting %q, reason %q): the button %s has the style %s", test.state, test.waiting, test.reason, action.Name, button)
				}
			}
		}
		if primary != test.want {
			t.Errorf("a rollout that is %s (waiting %q, reason %q): the primary button is %q, want %q", test.state, test.waiting, test.reason, primary, test.want)
		}
	}
}

func TestStatus_SaysWhatABreachHasDone(t *testing.T) {
	for _, test := range []struct {
		state    rollout.State
		reason   string
		onBreach rollout.OnBreach
		want     string
	}{
		{rollout.StatePaused, "operator", rollout.BreachRollback, ""},
		{rollout.StateRolledBack, "breach", rollout.BreachRollback, "rolled back automatically: the feature is off"},
		{rollout.StatePaused, "breach", rollout.BreachRollback, "rolled back automatically to this stage"},
		{rollout.StatePaused, "breach", rollout.BreachPause, "still have the feature"},
	} {
		s := status{rollout.Status{State: test.state, Reason: test.reason, Plan: rollout.Plan{OnBreach: test.onBreach}}}
		if got := s.BreachText(); !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s, reason %s, on_breach %s: %q, want a text with %q", test.state, test.reason, test.onBreach, got, test.want)
		}
	}
}

func TestStatus_ComparesTheErrorRateWithTheLimit(t *testing.T) {
	over := status{}
	over.Plan.Limit, over.Evidence.Exposed = 5*flags.Percent, rollout.Counts{Outcomes: 40, Failures: 3}
	if !over.IsOver() || over.Distance() != "2.5 points over" || (status{}).IsOver() {
		t.Errorf("7.5 %% of failures with a limit of 5 %%: IsOver is %v and Distance %q, want true and 2.5 points over", over.IsOver(), over.Distance())
	}
	if got := (status{}).Distance(); got != "no requests yet" {
		t.Errorf("Distance without requests is %q, want no requests yet", got)
	}
}

func TestEvent_OmitsEmptyColumnsOfANewRow(t *testing.T) {
	created := event{Action: "insert", Before: []byte("{}"), After: []byte(`{"enabled":true,"enabled_user_ids":[],"notice":"","seed":null}`)}
	if got := strings.Join(created.Changes(), "; "); got != "enabled: true" || created.ActionText() != "created" {
		t.Errorf("a new row is described as %q with %q, want created with enabled: true", created.ActionText(), got)
	}
	emptied := event{Action: "end_session", Before: []byte(`{"enabled_user_ids":["7"]}`), After: []byte(`{"enabled_user_ids":[]}`)}
	if got := strings.Join(emptied.Changes(), "; "); got != `enabled_user_ids: ["7"] → []` || emptied.ActionText() != "end session" {
		t.Errorf("an emptied list is described as %q with %q, want end session with both values", emptied.ActionText(), got)
	}
}
