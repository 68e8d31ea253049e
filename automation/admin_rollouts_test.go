package automation_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// fastRollouts makes rollouts be evaluated often.
func fastRollouts(c *automation.Config) { c.RolloutInterval = 50 * time.Millisecond }

// twoStagePlan is a plan whose second stage includes all users and begins almost at
// once.
const twoStagePlan = `{"plan":{"stages":[
	{"name":"internal","percentage":0,"users":["inside"],"hold":"10ms"},
	{"name":"all","percentage":100,"hold":"1h"}],"on_breach":"off","notice":"We are on it."}}`

func TestAdmin_StartsPausesResumesAndEndsARollout(t *testing.T) {
	o := newOperator(t, setup{config: fastRollouts, flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`})
	o.expect(o.call("GET", "/rollouts/automation", ""), http.StatusNotFound, "no rollout")
	o.expect(o.call("POST", "/rollouts/automation/pause", ""), http.StatusNotFound, "no rollout")
	o.expect(o.call("POST", "/rollouts/absent", ""), http.StatusNotFound, "no flag")
	o.expect(o.call("POST", "/rollouts/automation", `{"plan":{"stages":[{"name":"x","percentage":150,"hold":"1h"}]}}`), http.StatusBadRequest, "percentage")
	o.expect(o.call("POST", "/rollouts/automation", twoStagePlan, "X-Automation-Actor", "olga"), http.StatusOK, `"actor":"admin:olga"`)
	o.until("the rollout includes everybody", func() bool { return o.Flags().Decide("automation", "anybody").On })
	o.expect(o.call("POST", "/rollouts/automation/approve", ""), http.StatusConflict, "")
	o.expect(o.call("POST", "/rollouts/automation/abort", `{"dry_run":true}`), http.StatusOK, `"to":"aborted"`)
	o.expect(o.call("GET", "/rollouts/automation", ""), http.StatusOK, `"state":"running"`)
	o.expect(o.call("POST", "/rollouts/automation/pause", ""), http.StatusOK, `"to":"paused"`)
	o.expect(o.call("POST", "/rollouts/automation/resume", `{"dry_run":"no"}`), http.StatusBadRequest, "dry_run")
	o.expect(o.call("POST", "/rollouts/automation/resume", ""), http.StatusOK, `"to":"running"`)
	o.expect(o.call("POST", "/rollouts/automation/abort", ""), http.StatusOK, `"to":"aborted"`)
	o.until("the rollout includes nobody", func() bool { return !o.Flags().Decide("automation", "anybody").On })
	o.expect(o.call("GET", "/rollouts/automation/events", ""), http.StatusOK, `"action":"abort"`)
	o.expect(o.call("GET", "/rollouts", ""), http.StatusOK, `"state":"aborted"`)
	o.expect(o.call("GET", "/report?open_bugs=0", ""), http.StatusOK, `"criteria"`)
	o.expect(o.call("GET", "/report?since=24h", ""), http.StatusOK, `"review":{"from":`)
	o.expect(o.call("GET", "/report?open_bugs=-1", ""), http.StatusBadRequest, "open_bugs")
	o.expect(o.call("GET", "/report?since=-1h", ""), http.StatusBadRequest, "since")
	o.expect(o.call("POST", "/cleanup", `{"dry_run":true}`), http.StatusOK, "")
}

// An operator who changes a flag by hand learns what that does to the flag's rollout.
func TestPatchFlag_ReturnsTheEffectOnTheRollout(t *testing.T) {
	o := newOperator(t, setup{config: fastRollouts, flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`})
	if w := o.call("PATCH", "/flags/automation", `{"rollout_percentage":1}`); strings.Contains(w.Body.String(), "rollout_effect") {
		t.Errorf("without a rollout the answer has a rollout_effect: %s", w.Body)
	}
	o.expect(o.call("POST", "/rollouts/automation", twoStagePlan), http.StatusOK, "")
	o.until("the rollout includes everybody", func() bool { return o.Flags().Decide("automation", "anybody").On })
	o.expect(o.call("PATCH", "/flags/automation", `{"rollout_percentage":50}`), http.StatusOK, `"rollout_effect":"The rollout of \"automation\" pauses: `)
	o.until("the rollout has paused", func() bool {
		return strings.Contains(o.call("GET", "/rollouts/automation", "").Body.String(), `"state":"paused"`)
	})
	o.expect(o.call("PATCH", "/flags/automation", `{"enabled":false}`), http.StatusOK, `"rollout_effect":"The rollout of \"automation\" pauses: `)
}

func TestRollout_RollsBackOnTheModulesOwnErrors(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for opens that hang, about 6 s")
	}
	o := newOperator(t, setup{config: func(c *automation.Config) {
		fastRollouts(c)
		c.AcquireTimeout, c.DrainTimeout = time.Second, time.Second
	}, flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`})
	o.expect(o.call("POST", "/rollouts/automation", twoStagePlan), http.StatusOK, "")
	o.until("the rollout includes everybody", func() bool { return o.Flags().Decide("automation", "anybody").On })
	o.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Mode: proxyroutertest.ModeHang})
	user := 0
	o.until("the rollout has been rolled back", func() bool {
		var group sync.WaitGroup
		for range 10 {
			user++
			name := fmt.Sprint("user", user)
			group.Go(func() {
				o.send(o.request("POST", "/api/v1/chat/completions", name, `{"model":"llama"}`))
			})
		}
		group.Wait()
		advanceRollout(o, 30*time.Second)
		s, err := rollout.NewStore(o.db).Get(t.Context(), "automation")
		return err == nil && s.State == rollout.StateRolledBack
	})
	o.until("the status has the notice", func() bool {
		return strings.Contains(o.get("/api/v1/automation/status", "alice").body, "We are on it.")
	})
}

func TestRollout_WaitsDuringErrorsOfProviders(t *testing.T) {
	o := newOperator(t, setup{config: fastRollouts, flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`})
	o.expect(o.call("POST", "/rollouts/automation", twoStagePlan), http.StatusOK, "")
	o.until("the rollout includes everybody", func() bool { return o.Flags().Decide("automation", "anybody").On })
	o.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Status: 500, Text: "no provider accepting session"})
	user := 0
	o.until("the rollout waits because of an outage", func() bool {
		for range 10 {
			user++
			o.send(o.request("POST", "/api/v1/chat/completions", fmt.Sprint("user", user), `{"model":"llama"}`))
		}
		advanceRollout(o, 30*time.Second)
		s, err := rollout.NewStore(o.db).Get(t.Context(), "automation")
		return err == nil && s.State == rollout.StateRunning && s.Waiting == "outage"
	})
	o.expect(o.call("GET", "/rollouts/automation", ""), http.StatusOK, "requests failed here or at their provider")
}

// advanceRollout makes the rollout's observation d older, because a rollback needs
// minutes of failures.
func advanceRollout(o operator, d time.Duration) {
	for i := range 5 {
		at := fmt.Sprintf("$.marks[%d].at", i)
		o.db.MustExec(`UPDATE automation_rollouts SET watch = json_set(watch, $1, strftime('%Y-%m-%dT%H:%M:%fZ', json_extract(watch, $1), $2))
			WHERE json_extract(watch, $1) IS NOT NULL`, at, fmt.Sprintf("-%.3f seconds", d.Seconds()))
	}
}

func TestEvidence_CountsOnlyRequestsThatAutomationActedOn(t *testing.T) {
	o := newOperator(t, setup{config: fastRollouts, flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`,
		next: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("fail") != "" {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}})
	plan := strings.ReplaceAll(strings.ReplaceAll(twoStagePlan, `"percentage":100`, `"percentage":0`), `"users":["inside"]`, `"users":["alice","opted-out"]`)
	o.expect(o.call("POST", "/rollouts/automation", plan), http.StatusOK, "")
	o.until("the rollout includes alice", func() bool { return o.Flags().Decide("automation", "alice").On })
	o.until("the last stage has begun", func() bool {
		s, err := rollout.NewStore(o.db).Get(t.Context(), "automation")
		return err == nil && s.Stage == 1
	})
	chat := func(user string, header ...string) {
		o.send(o.request("POST", "/host/v1/chat/completions", user, `{"model":"llama"}`, header...))
	}
	sendUnknownModel := func() { o.send(o.request("POST", "/host/v1/chat/completions", "alice", `{"model":"lama"}`)) } // a client's error is ignored
	evidence := func() rollout.Evidence {
		s, err := rollout.NewStore(o.db).Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		return s.Evidence
	}
	// A replica learns of a stage a moment after it has begun, so the first requests
	// may be counted for the stage before.
	unknownModels := int64(0)
	o.until("the replica counts for the last stage", func() bool {
		sendUnknownModel()
		unknownModels++
		return evidence().Exposed.Ignored > 0
	})
	put := o.send(o.request("PUT", "/api/v1/automation/settings", "opted-out", `{"is_enabled":false,"session_duration":3600}`))
	if put.status != http.StatusOK {
		t.Fatalf("opting out: status %d, body %s; want 200", put.status, put.body)
	}
	chat("alice")                                         // exposed, a success
	chat("alice", "fail", "1")                            // exposed, a failure
	chat("bob")                                           // control, a success
	chat("bob", "fail", "1")                              // control, a failure
	chat("opted-out", "fail", "1")                        // not counted: automation did not act
	chat("")                                              // no user: not counted
	chat("alice", "session_id", strings.Repeat("ab", 32)) // not counted: not a session of automation's
	sendUnknownModel()
	unknownModels++
	want := rollout.Evidence{Exposed: rollout.Counts{Outcomes: 3, Failures: 1}, Control: rollout.Counts{Outcomes: 2, Failures: 1}}
	var got rollout.Evidence
	var ignored int64
	o.until("the counts are flushed", func() bool {
		got = evidence()
		ignored, got.Exposed.Ignored = got.Exposed.Ignored, 0
		for _, c := range []*rollout.Counts{&got.Exposed, &got.Control} {
			*c = rollout.Counts{Outcomes: c.Outcomes, Failures: c.Failures, Ignored: c.Ignored}
		}
		return got == want && ignored > 1 || got.Exposed.Outcomes > 3 // too many never become right
	})
	if got != want || ignored > unknownModels {
		t.Errorf("evidence %+v, want %+v: exposed are alice's two chats and the PUT, control are bob's two chats; %d ignored, want at most %d", got, want, ignored, unknownModels)
	}
}
