package policy_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/google/go-cmp/cmp"
)

// The table, with one line for each cause.
func ExampleOf() {
	for _, c := range policy.Causes() {
		p := policy.Of(c)
		fmt.Printf("%-11s %3d %-8s %-8s %s\n", c, p.Status, outcome.Outcome{Cause: c}.Result(), p.Evidence, p.Level)
	}
	// Output:
	// none        200 served   success  DEBUG
	// client      400 refused  none     DEBUG
	// client_left   0 canceled none     DEBUG
	// off         400 refused  none     DEBUG
	// limit       429 refused  none     INFO
	// busy        503 failed   none     INFO
	// opening     503 failed   failure  WARN
	// database    503 failed   shared   WARN
	// host        503 failed   none     WARN
	// node        503 failed   shared   WARN
	// session     503 failed   failure  WARN
	// provider    502 failed   compared WARN
	// model         0 refused  none     INFO
	// internal    500 failed   failure  ERROR
}

func TestOf_TreatsAnUnknownCauseAsInternal(t *testing.T) {
	if got, want := policy.Of(""), policy.Of(outcome.Internal); got != want {
		t.Errorf("the zero cause has the policy %+v, want that of outcome.Internal, %+v", got, want)
	}
}

// The alert that says to roll back must select all causes that are evidence
// against the feature.
func TestOf_AgreesWithTheRollbackAlert(t *testing.T) {
	var want []string
	for _, c := range policy.Causes() {
		if policy.Of(c).Evidence == policy.EvidenceFailure {
			want = append(want, string(c))
		}
	}
	slices.Sort(want)
	rules, err := os.ReadFile("../../../deploy/prometheus/automation.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`outcome="failed",cause=~"([a-z|]+)"`).FindAllSubmatch(rules, -1)
	if len(found) == 0 {
		t.Fatal("no alert selects failed requests by their causes")
	}
	for _, m := range found {
		got := strings.Split(string(m[1]), "|")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("causes of the alert (-want +got):\n%s", diff)
		}
	}
}

func TestCodes_AgreeWithTheirCauses(t *testing.T) {
	for _, code := range policy.Codes() {
		t.Run(string(code), func(t *testing.T) {
			if len(policy.CausesOf(code)) == 0 {
				t.Fatal("the code has no causes")
			}
			for _, cause := range policy.CausesOf(code) {
				status, want := policy.Status(cause, code), policy.Of(cause).Status
				if want != 0 && status/100 != want/100 {
					t.Errorf("%s: status %d is of another class than the cause's status %d", cause, status, want)
				}
				if want == 0 && status != 0 {
					t.Errorf("%s: status %d, but the module does not choose the status of this cause", cause, status)
				}
			}
		})
	}
	for _, cause := range policy.Causes() {
		has := slices.ContainsFunc(policy.Codes(), func(c outcome.Code) bool { return slices.Contains(policy.CausesOf(c), cause) })
		if !has && cause != outcome.None {
			t.Errorf("the cause %s has no code", cause)
		}
	}
	for _, skip := range policy.Skips() {
		if len(policy.CausesOf(skip)) != 0 || slices.Contains(policy.Codes(), skip) {
			t.Errorf("%s is both a skip reason and an error's code", skip)
		}
	}
}

func TestEvidenceOf_CountsExposedRequestsOnlyIfAutomationActed(t *testing.T) {
	for _, cause := range policy.Causes() {
		want := policy.Of(cause).Evidence
		acted := outcome.Outcome{Cause: cause, Arm: policy.ArmExposed, UserID: "7"}
		skipped := acted
		skipped.Skipped = true
		control := skipped
		control.Arm = "control"
		for _, tt := range []struct {
			name      string
			outcome   outcome.Outcome
			untouched bool
			evidence  policy.Evidence
		}{
			{"exposed", acted, false, want},
			{"exposed and skipped", skipped, true, ""},
			{"control", control, true, want},
			{"without a user", outcome.Outcome{Cause: cause, Arm: policy.ArmExposed}, false, ""},
			{"on no arm", outcome.Outcome{Cause: cause, UserID: "7"}, false, ""},
		} {
			if got := policy.EvidenceOf(tt.outcome); got != tt.evidence {
				t.Errorf("%s, %s: evidence %q, want %q", cause, tt.name, got, tt.evidence)
			}
			if result := tt.outcome.Result(); (result == outcome.Untouched) != tt.untouched {
				t.Errorf("%s, %s: result %s, want untouched: %t", cause, tt.name, result, tt.untouched)
			}
		}
	}
}

func TestCauseOf_BlamesTheProviderOnlyForServerErrors(t *testing.T) {
	for status, want := range map[int]outcome.Cause{
		200: outcome.None, 302: outcome.None, 400: outcome.Client, 404: outcome.Client, 429: outcome.Model,
		500: outcome.Provider, 502: outcome.Provider, 503: outcome.Provider,
	} {
		if got := policy.CauseOf(status); got != want {
			t.Errorf("status %d: cause %s, want %s", status, got, want)
		}
	}
}
