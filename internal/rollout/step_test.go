package rollout

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

var (
	states  = []State{StatePending, StateRunning, StatePaused, StateCompleted, StateRolledBack, StateAborted}
	actions = []Action{ActionStart, ActionPause, ActionResume, ActionApprove, ActionSkip, ActionPromote, ActionAbort, ActionRestart, actionCreate, actionAdvance, actionComplete, actionRollback, actionBreach, actionHandEdit, actionWait, "", "explode"}
)

// at returns a rollout in a state. It has the default plan and is in the second
// stage, which needs approval.
func at(s State) rollout {
	p := DefaultPlan()
	p.Stages[1].Approval = true
	return rollout{name: "x", plan: p, state: s, epoch: 3, stage: 1, run: 7, watched: time.Hour, flagVersion: 5, waiting: waitingTime, memory: memory{FlagSeed: new(string)}}
}

func TestExecute_AllowsOnlyLegalTransitions(t *testing.T) {
	// All other pairs are illegal.
	legal := map[string]string{
		"pending start":       "running, stage 0, epoch 3, run 8, sets the stage at any version",
		"pending abort":       "aborted, stage 1, epoch 3, run 7, leaves the flag at any version",
		"running pause":       "paused, stage 1, epoch 3, run 7, leaves the flag at version 5",
		"running approve":     "running, stage 1, epoch 3, run 7, leaves the flag at version 5",
		"running skip":        "running, stage 2, epoch 3, run 8, sets the stage at version 5",
		"running promote":     "running, stage 3, epoch 3, run 8, sets the stage at version 5",
		"running abort":       "aborted, stage 1, epoch 3, run 7, switches off at any version",
		"paused resume":       "running, stage 1, epoch 3, run 7, sets the stage at any version",
		"paused skip":         "running, stage 2, epoch 3, run 8, sets the stage at any version",
		"paused promote":      "running, stage 3, epoch 3, run 8, sets the stage at any version",
		"paused abort":        "aborted, stage 1, epoch 3, run 7, switches off at any version",
		"completed restart":   "running, stage 0, epoch 4, run 8, sets the stage at any version",
		"rolled_back restart": "running, stage 0, epoch 4, run 8, sets the stage at any version",
		"aborted restart":     "running, stage 0, epoch 4, run 8, sets the stage at any version",
	}
	for _, state := range states {
		for _, action := range actions {
			pair := fmt.Sprintf("%s %s", state, action)
			s, err := at(state).execute(action, "alice")
			want, ok := legal[pair]
			if !ok {
				var illegal *IllegalError
				if !errors.Is(err, ErrIllegal) || !errors.As(err, &illegal) || illegal.State != state || illegal.Action != action {
					t.Errorf("%s: error %v, want an IllegalError with this state and action", pair, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", pair, err)
				continue
			}
			version := "at any version"
			if s.ifVersion != 0 {
				version = fmt.Sprintf("at version %d", s.ifVersion)
			}
			got := fmt.Sprintf("%s, stage %d, epoch %d, run %d, %s %s", s.next.state, s.next.stage, s.next.epoch, s.next.run,
				[]string{"leaves the flag", "sets the stage", "switches off"}[s.write], version)
			if got != want {
				t.Errorf("%s: %s, want %s", pair, got, want)
			}
			if s.action != action || s.actor != "alice" {
				t.Errorf("%s is recorded as %s by %s, want %s by alice", pair, s.action, s.actor, action)
			}
		}
	}
}

func TestExecute_DependsOnTheStage(t *testing.T) {
	r := at(StateRunning)
	r.approved = true
	if _, err := r.execute(ActionApprove, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "not possible now: this stage is approved already") {
		t.Errorf("approve of an approved stage: %v, want an ErrIllegal that says so", err)
	}
	r.stage = 0
	if _, err := r.execute(ActionApprove, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "this stage passes without approval") {
		t.Errorf("approve of a stage that needs none: %v, want an ErrIllegal that says so", err)
	}
	r.stage = 3
	if _, err := r.execute(ActionPromote, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "it is in its last stage already; skip completes it") {
		t.Errorf("promote in the last stage: %v, want an ErrIllegal that says so", err)
	}
	if s, err := r.execute(ActionSkip, "a"); err != nil || s.next.state != StateCompleted || s.write != writeNothing {
		t.Errorf("skip in the last stage: to %s with the flag write %d, %v; want completed without one", s.next.state, s.write, err)
	}
	if _, err := at(StatePaused).execute(ActionApprove, "a"); err == nil || err.Error() != "approve: not possible now: the rollout is paused; allowed: abort, promote, resume, skip" {
		t.Errorf("approve while paused: %v, want an error with the allowed actions", err)
	}
	r = at(StatePaused)
	for reason, want := range map[string]time.Duration{reasonOperator: time.Hour, reasonHandEdit: time.Hour, reasonBreach: 0} {
		r.reason = reason
		if s, err := r.execute(ActionResume, "a"); err != nil || s.next.watched != want || s.next.reason != "" {
			t.Errorf("resumed after %s: watched for %v, reason %q, %v; want %v and no reason", reason, s.next.watched, s.next.reason, err, want)
		}
	}
}

// withWindows returns a rollout whose windows all have the same counts, and its
// evidence. The next evaluation ends the last window.
func withWindows(r rollout, exposed, control Counts) (rollout, Evidence) {
	r.memory.Marks = nil
	var e Evidence
	for i := range windows {
		r.memory.Marks = append(r.memory.Marks, mark{start.Add(time.Duration(i) * windowMin), e})
		e = Evidence{Exposed: Counts{}.minus(Counts{}.minus(e.Exposed).minus(exposed)), Control: Counts{}.minus(Counts{}.minus(e.Control).minus(control))}
	}
	return r, e
}

func TestEvaluate_TakesTheStepThatFollows(t *testing.T) {
	const day = 24 * time.Hour
	const detail = "48 of 80 requests failed in 2 minutes, 60.0 % where 5 % are allowed, for 7 users"
	good, bad := Counts{Outcomes: 250, Failures: 2}, Counts{Outcomes: 20, Failures: 12}
	shared := Counts{Outcomes: 10, SharedFailures: 10}
	edited := func(version int64, percentage float64, enabled bool, seed string) func(*inputs) {
		return func(in *inputs) { in.flag = flagHead{version, "sql:dba", enabled, percentage, seed} }
	}
	over := func(r *rollout) { r.watched, r.memory.Quarters, r.approved = day, quarters, true } // its hold
	for _, c := range []struct {
		name    string
		r       func(*rollout)
		in      func(*inputs)
		exposed Counts // of each window
		// The action or "-", the state, the reason or what it waits for, the stage, the
		// watched time, what the step does to the flag, and the detail.
		want string
	}{
		{"a healthy stage waits for its hold", nil, nil, good, "- running time 1 1h0m10s"},
		{"a stage passes after its hold", over, nil, good, "advance running time 2 0s sets"},
		{"the last stage completes the rollout", func(r *rollout) { over(r); r.watched, r.stage = 3*day, 3 }, nil, good, "complete completed  3 72h0m10s leaves"},
		{"a stage waits for its samples", over, nil, Counts{Outcomes: 24}, "wait running samples 1 24h0m10s leaves: the stage has 96 of 100 outcomes"},
		{"too few samples are recorded once", func(r *rollout) { over(r); r.waiting = waitingSamples }, nil, Counts{Outcomes: 24}, "- running samples 1 24h0m10s"},
		{"samples of the first seconds are not those of the hold", func(r *rollout) { r.watched, r.memory.QuarterOutcomes = 6*time.Hour, 1000 }, nil, good,
			"wait running samples 1 6h0m0s leaves: watched for 6h0m0s; this quarter of the hold has 0 of 25 outcomes"},
		{"a quarter of the hold that has its samples passes", func(r *rollout) { r.watched, r.memory.QuarterOutcomes = 6*time.Hour, 975 }, nil, good, "- running time 1 6h0m10s"},
		{"a stage waits for approval", func(r *rollout) { over(r); r.approved = false }, nil, good, "wait running approval 1 24h0m10s leaves: the hold is over, and the stage waits for approval"},
		{"approval does not shorten the hold", func(r *rollout) { r.approved = true }, nil, good, "- running time 1 1h0m10s"},
		{"downtime does not count as watched", nil, func(in *inputs) { in.elapsed = 30 * day }, good, "- running time 1 1h0m0s"},
		{"a clock that goes back does not count as watched", nil, func(in *inputs) { in.elapsed = -day }, good, "- running time 1 1h0m0s"},

		{"a breach goes back to the stage before", nil, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a breach goes back though the hold is over", over, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a breach of the stage before switches off", func(r *rollout) { *r = r.enterBack(1) }, nil, bad, "rollback rolled_back breach 1 0s off: " + detail},
		{"a breach of the stage before switches off after it was resumed, too", func(r *rollout) { r.memory.SteppedBack = true }, nil, bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"a breach of the first stage switches off", func(r *rollout) { r.stage = 0 }, func(in *inputs) { in.flag.Percentage = 0 }, bad, "rollback rolled_back breach 0 1h0m0s off: " + detail},
		{"a breach switches off where the plan says so", func(r *rollout) { r.plan.OnBreach = BreachOff }, nil, bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"a breach pauses where the plan says so", func(r *rollout) { r.plan.OnBreach = BreachPause }, nil, bad, "breach paused breach 1 1h0m0s leaves: " + detail},
		{"a breach after it has paused does nothing more", func(r *rollout) { r.plan.OnBreach = BreachPause; *r = r.stop(StatePaused, reasonBreach) }, nil, bad, "- paused breach 1 1h0m0s"},
		{"a breach is recorded and waits where the plan says notify", func(r *rollout) { over(r); r.plan.OnBreach = BreachNotify }, nil, bad, "breach running breach 1 24h0m0s leaves: " + detail},
		{"a breach that lasts is recorded once", func(r *rollout) { r.plan.OnBreach, r.waiting = BreachNotify, waitingBreach }, nil, bad, "- running breach 1 1h0m0s"},
		{"a stage waits while too few users fail", over, func(in *inputs) { in.users = func(int, time.Time) (int64, error) { return 4, nil } }, bad,
			"wait running users 1 24h0m0s leaves: 48 of 80 requests failed in 2 minutes, 60.0 % where 5 % are allowed, but for only 4 users; a rollback needs 5"},
		{"a stage waits in an outage", over, nil, shared, "wait running outage 1 24h0m0s leaves: lately 10 of 20 requests failed because of the node or the database, with or without the feature"},
		{"an outage is recorded once", func(r *rollout) { r.waiting = waitingOutage }, nil, shared, "- running outage 1 1h0m0s"},

		{"a rollout that an operator paused does not advance", func(r *rollout) { over(r); *r = r.stop(StatePaused, reasonOperator) }, nil, good, "- paused operator 1 24h0m10s"},
		{"a rollout that an operator paused goes back after a breach", func(r *rollout) { *r = r.stop(StatePaused, reasonOperator) }, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a completed rollout goes back after a breach", func(r *rollout) { *r = r.stop(StateCompleted, "") }, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a completed rollout takes no step while healthy", func(r *rollout) { *r = r.stop(StateCompleted, "") }, nil, good, "- completed  1 1h0m10s"},

		{"a change of users or the notice is adopted", nil, edited(6, 10, true, ""), good, "adopt running time 1 1h0m0s leaves: sql:dba changed the flag's users or its notice"},
		{"another percentage pauses", nil, edited(6, 3, true, ""), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba set the flag to 3 %, the stage has 10 %; a breach is still acted on"},
		{"another seed pauses", nil, edited(6, 10, true, "x"), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba changed the flag's seed; a breach is still acted on"},
		{"disabling pauses", nil, edited(6, 10, false, ""), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba disabled the flag"},
		{"a deleted flag pauses", nil, func(in *inputs) { in.flag = flagHead{} }, good, "hand_edit paused hand_edit 1 1h0m0s leaves: the flag does not exist any more"},
		{"a second change by hand takes no step", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(6, 3, true, ""), good, "- paused hand_edit 1 1h0m10s"},
		{"a breach after a change by hand switches off", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(5, 3, true, ""), bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"a breach does nothing while the flag is disabled", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(5, 3, false, ""), bad, "- paused hand_edit 1 1h0m0s"},
		{"a change by hand ends a completed rollout's watch", func(r *rollout) { *r = r.stop(StateCompleted, "") }, edited(6, 3, true, ""), good, "hand_edit completed hand_edit 1 1h0m0s leaves: sql:dba set the flag to 3 %, the stage has 10 %; the rollout is not watched any more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, e := withWindows(at(StateRunning), c.exposed, Counts{})
			in := inputs{at: start.Add(windows * windowMin), elapsed: 10 * time.Second, maxElapsed: 10 * time.Second, evidence: e,
				flag: flagHead{5, "rollout:x", true, 10, ""}, users: func(int, time.Time) (int64, error) { return 7, nil }}
			if c.r != nil {
				marks := r.memory.Marks
				c.r(&r)
				r.memory.Marks = marks
			}
			if c.in != nil {
				c.in(&in)
			}
			after, s, err := r.evaluate(in)
			if err != nil {
				t.Fatal(err)
			}
			text := func(r rollout) string {
				return fmt.Sprintf("%s %s %d %v", r.state, r.reason+r.waiting, r.stage, r.watched)
			}
			got := "- " + text(after)
			if s != nil {
				got = fmt.Sprintf("%s %s %s", s.action, text(s.next), []string{"leaves", "sets", "off"}[s.write])
				if s.detail != "" {
					got += ": " + s.detail
				}
				if s.ifVersion != in.flag.Version || s.actor != "rollout:x" {
					t.Errorf("the step is by %s for the flag's version %d, want rollout:x and %d", s.actor, s.ifVersion, in.flag.Version)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("the step (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIsWatched(t *testing.T) {
	for _, c := range []struct {
		state  State
		reason string
		want   bool
	}{
		{StatePending, "", false}, {StateRunning, "", true}, {StatePaused, reasonOperator, true}, {StatePaused, reasonBreach, true}, {StatePaused, reasonHandEdit, true},
		{StateCompleted, "", true}, {StateCompleted, reasonHandEdit, false}, {StateRolledBack, reasonBreach, false}, {StateAborted, reasonOperator, false},
	} {
		if got := (rollout{state: c.state, reason: c.reason}).isWatched(); got != c.want {
			t.Errorf("a rollout that is %s (%s) is watched: %t, want %t", c.state, c.reason, got, c.want)
		}
	}
}

func TestPlan_StepsBackToFewerUsers(t *testing.T) {
	p := Plan{Stages: []Stage{{}, {Percentage: 10}, {Percentage: 10}, {Percentage: 10, Users: flags.NewIDs("7")}, {Percentage: 10}}}
	for stage, want := range []int{-1, 0, 0, 2, 2} {
		before, ok := p.stepBack(stage)
		if ok != (want >= 0) || ok && before != want {
			t.Errorf("the step back from stage %d leads to %d, %t; want %d (-1: none)", stage, before, ok, want)
		}
	}
}

func TestPlan_ExcludesUsersOfLaterStages(t *testing.T) {
	p := Plan{Stages: []Stage{{Users: flags.NewIDs("a")}, {}, {Users: flags.NewIDs("b", "c")}}}
	if !p.hasUsers() || DefaultPlan().hasUsers() {
		t.Errorf("hasUsers: %t for a plan with users, %t for one without", p.hasUsers(), DefaultPlan().hasUsers())
	}
	listed := flags.NewIDs("x", "b")
	for stage, want := range []flags.IDs{flags.NewIDs("a", "x"), flags.NewIDs("a", "x"), flags.NewIDs("a", "b", "c", "x")} {
		if got := p.users(listed, stage); !got.Equal(want) {
			t.Errorf("users in stage %d: %v, want %v", stage, got.List(), want.List())
		}
	}
}
