package outcome_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// The table of the design, in one line a cause.
func ExampleCause_Policy() {
	for _, c := range outcome.Causes() {
		p := c.Policy()
		fmt.Printf("%-12s %3d %-8s %-8s %s\n", c, p.Status, p.Result, p.Evidence, p.Remedy)
	}
	// Output:
	// none         200 served   success  none
	// client       400 refused  none     none
	// client_left    0 canceled none     drain
	// off          400 refused  none     none
	// limit        429 refused  none     none
	// busy         503 failed   none     wait
	// opening      503 failed   failure  wait
	// database     503 failed   shared   last_state
	// host         503 failed   none     none
	// node         503 failed   shared   breaker
	// session      503 failed   failure  verify
	// provider     502 failed   compared other
	// model          0 refused  none     none
	// internal     500 failed   failure  none
}

func TestPolicies_HoldForEveryCause(t *testing.T) {
	for _, c := range outcome.Causes() {
		p := c.Policy()
		t.Run(string(c), func(t *testing.T) {
			if p.Result == "" || p.Evidence == "" || p.Remedy == "" {
				t.Errorf("something is left open: %+v", p)
			}
			if p.Status != 0 && p.Status < 500 && p.Result == outcome.Failed || p.Status >= 500 && p.Result != outcome.Failed {
				t.Errorf("a status of %d does not go with %s", p.Status, p.Result)
			}
		})
	}
	if got := outcome.Cause("").Policy(); got != outcome.Internal.Policy() {
		t.Errorf("a request whose end nobody explained has the policy %+v; want Internal's", got)
	}
}

func TestCodes_GoWithTheirCauses(t *testing.T) {
	for _, code := range outcome.Codes() {
		t.Run(string(code), func(t *testing.T) {
			if len(code.Causes()) == 0 {
				t.Fatal("no cause leads to this code")
			}
			for _, cause := range code.Causes() {
				status, policy := outcome.Status(cause, code), cause.Policy()
				if policy.Status != 0 && status/100 != policy.Status/100 {
					t.Errorf("%s: status %d, of another class than the cause's %d", cause, status, policy.Status)
				}
				if policy.Status == 0 && status != 0 {
					t.Errorf("%s: status %d, where the answer is not ours to make", cause, status)
				}
			}
		})
	}
	for _, cause := range outcome.Causes() {
		has := slices.ContainsFunc(outcome.Codes(), func(c outcome.Code) bool { return slices.Contains(c.Causes(), cause) })
		if !has && cause != outcome.None {
			t.Errorf("no code goes with %s", cause)
		}
	}
	for _, skip := range outcome.Skips() {
		if len(skip.Causes()) != 0 || slices.Contains(outcome.Codes(), skip) {
			t.Errorf("%s is a reason and a code", skip)
		}
	}
}

func TestOutcome_CountsOnlyWhatAutomationActedOn(t *testing.T) {
	for _, cause := range outcome.Causes() {
		want := cause.Policy()
		acted := outcome.Outcome{Cause: cause, Arm: outcome.ArmExposed, UserID: "7"}
		if acted.Result() != want.Result || acted.Evidence() != want.Evidence {
			t.Errorf("%s: %s, %s; want the table's", cause, acted.Result(), acted.Evidence())
		}
		skipped := acted
		skipped.Skipped = true
		if skipped.Result() != outcome.Untouched || skipped.Evidence() != "" {
			t.Errorf("%s, not acted on: %s, %s; want no evidence", cause, skipped.Result(), skipped.Evidence())
		}
		control := skipped
		control.Arm = outcome.ArmControl
		if control.Result() != outcome.Untouched || control.Evidence() != want.Evidence {
			t.Errorf("%s in the control arm: %s, %s; want the table's evidence", cause, control.Result(), control.Evidence())
		}
		for _, nobody := range []outcome.Outcome{{Cause: cause, Arm: outcome.ArmExposed}, {Cause: cause, UserID: "7"}} {
			if nobody.Evidence() != "" {
				t.Errorf("%s, on no arm: %s", cause, nobody.Evidence())
			}
		}
	}
}

func TestOfStatus_ChargesNoClientError(t *testing.T) {
	for status, want := range map[int]outcome.Cause{
		200: outcome.None, 302: outcome.None, 400: outcome.Client, 404: outcome.Client, 429: outcome.Model,
		500: outcome.Provider, 502: outcome.Provider, 503: outcome.Provider,
	} {
		if got := outcome.OfStatus(status); got != want {
			t.Errorf("%d: %s, want %s", status, got, want)
		}
	}
}
