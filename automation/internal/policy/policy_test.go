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

// The table in one line a cause.
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

func TestOf_TreatsAnUnexplainedEndAsInternal(t *testing.T) {
	if got := policy.Of(""); got != policy.Of(outcome.Internal) {
		t.Errorf("a request whose end nobody explained has the policy %+v; want Internal's", got)
	}
}

// The alert that says to roll back names in PromQL the causes of the table.
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
		t.Fatal("no rule has the causes")
	}
	for _, m := range found {
		got := strings.Split(string(m[1]), "|")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("causes (-table +rules)\n%s", diff)
		}
	}
}

func TestCodes_GoWithTheirCauses(t *testing.T) {
	for _, code := range policy.Codes() {
		t.Run(string(code), func(t *testing.T) {
			if len(policy.CausesOf(code)) == 0 {
				t.Fatal("no cause leads to this code")
			}
			for _, cause := range policy.CausesOf(code) {
				status, want := policy.Status(cause, code), policy.Of(cause)
				if want.Status != 0 && status/100 != want.Status/100 {
					t.Errorf("%s: status %d, of another class than the cause's %d", cause, status, want.Status)
				}
				if want.Status == 0 && status != 0 {
					t.Errorf("%s: status %d, where the answer is not ours to make", cause, status)
				}
			}
		})
	}
	for _, cause := range policy.Causes() {
		has := slices.ContainsFunc(policy.Codes(), func(c outcome.Code) bool { return slices.Contains(policy.CausesOf(c), cause) })
		if !has && cause != outcome.None {
			t.Errorf("no code goes with %s", cause)
		}
	}
	for _, skip := range policy.Skips() {
		if len(policy.CausesOf(skip)) != 0 || slices.Contains(policy.Codes(), skip) {
			t.Errorf("%s is a reason and a code", skip)
		}
	}
}

func TestOutcome_CountsOnlyWhatAutomationActedOn(t *testing.T) {
	for _, cause := range policy.Causes() {
		want := policy.Of(cause)
		acted := outcome.Outcome{Cause: cause, Arm: policy.ArmExposed, UserID: "7"}
		if acted.Result() == outcome.Untouched || policy.EvidenceOf(acted) != want.Evidence {
			t.Errorf("%s: %s, %s; want the table's evidence", cause, acted.Result(), policy.EvidenceOf(acted))
		}
		skipped := acted
		skipped.Skipped = true
		if skipped.Result() != outcome.Untouched || policy.EvidenceOf(skipped) != "" {
			t.Errorf("%s, not acted on: %s, %s; want no evidence", cause, skipped.Result(), policy.EvidenceOf(skipped))
		}
		control := skipped
		control.Arm = "control"
		if control.Result() != outcome.Untouched || policy.EvidenceOf(control) != want.Evidence {
			t.Errorf("%s in the control arm: %s, %s; want the table's evidence", cause, control.Result(), policy.EvidenceOf(control))
		}
		for _, nobody := range []outcome.Outcome{{Cause: cause, Arm: policy.ArmExposed}, {Cause: cause, UserID: "7"}} {
			if policy.EvidenceOf(nobody) != "" {
				t.Errorf("%s, on no arm: %s", cause, policy.EvidenceOf(nobody))
			}
		}
	}
}

func TestCauseOf_ChargesNoClientError(t *testing.T) {
	for status, want := range map[int]outcome.Cause{
		200: outcome.None, 302: outcome.None, 400: outcome.Client, 404: outcome.Client, 429: outcome.Model,
		500: outcome.Provider, 502: outcome.Provider, 503: outcome.Provider,
	} {
		if got := policy.CauseOf(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
}
