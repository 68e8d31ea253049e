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

// at is a rollout of the default plan in its second stage, which needs approval.
func at(s State) rollout {
	p := DefaultPlan()
	p.Stages[1].Approval = true
	return rollout{name: "x", plan: p, state: s, epoch: 3, stage: 1, run: 7, watched: time.Hour, flagVersion: 5, waiting: waitingTime, memory: memory{FlagSeed: new(string)}}
}

func TestExecute_AllowsOnlyLegalTransitions(t *testing.T) {
	// What is not here is illegal.
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
					t.Errorf("%s: %v, want an IllegalError", pair, err)
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
				t.Errorf("%s is recorded as %s by %s", pair, s.action, s.actor)
			}
		}
	}
}

func TestExecute_DependsOnTheStage(t *testing.T) {
	r := at(StateRunning)
	r.approved = true
	if _, err := r.execute(ActionApprove, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "not possible now: this stage is approved already") {
		t.Error(err)
	}
	r.stage = 0
	if _, err := r.execute(ActionApprove, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "this stage passes without approval") {
		t.Error(err)
	}
	r.stage = 3
	if _, err := r.execute(ActionPromote, "a"); !errors.Is(err, ErrIllegal) || !strings.HasSuffix(err.Error(), "it is in its last stage already; skip completes it") {
		t.Error(err)
	}
	if s, err := r.execute(ActionSkip, "a"); err != nil || s.next.state != StateCompleted || s.write != writeNothing {
		t.Errorf("skip in the last stage: %+v, %v", s, err)
	}
	if _, err := at(StatePaused).execute(ActionApprove, "a"); err == nil || err.Error() != "approve: not possible now: the rollout is paused; allowed: abort, promote, resume, skip" {
		t.Error(err)
	}
	r = at(StatePaused)
	for reason, want := range map[string]time.Duration{reasonOperator: time.Hour, reasonHandEdit: time.Hour, reasonBreach: 0} {
		r.reason = reason
		if s, err := r.execute(ActionResume, "a"); err != nil || s.next.watched != want || s.next.reason != "" {
			t.Errorf("resumed after %s: %+v, %v", reason, s.next, err)
		}
	}
}

// judged is a rollout whose evidence is about to be found what a case says: the
// last of its windows ends now.
func judged(r rollout, exposed, control Counts) (rollout, Evidence) {
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
		want    string // action, state, reason and what it waits for, stage, watched, what is written: detail
	}{
		{"a stage holds", nil, nil, good, "- running time 1 1h0m10s"},
		{"a stage passes after its hold", over, nil, good, "advance running time 2 0s sets"},
		{"the last stage completes the rollout", func(r *rollout) { over(r); r.watched, r.stage = 3*day, 3 }, nil, good, "complete completed  3 72h0m10s leaves"},
		{"too few samples hold", over, nil, Counts{Outcomes: 24}, "wait running samples 1 24h0m10s leaves: the stage has 96 of 100 outcomes"},
		{"and this is recorded once", func(r *rollout) { over(r); r.waiting = waitingSamples }, nil, Counts{Outcomes: 24}, "- running samples 1 24h0m10s"},
		{"samples of the first seconds are not those of the hold", func(r *rollout) { r.watched, r.memory.QuarterOutcomes = 6*time.Hour, 1000 }, nil, good,
			"wait running samples 1 6h0m0s leaves: watched for 6h0m0s; this quarter of the hold has 0 of 25 outcomes"},
		{"a quarter of the hold that has its samples passes", func(r *rollout) { r.watched, r.memory.QuarterOutcomes = 6*time.Hour, 975 }, nil, good, "- running time 1 6h0m10s"},
		{"a stage waits for approval", func(r *rollout) { over(r); r.approved = false }, nil, good, "wait running approval 1 24h0m10s leaves: the hold is over, and the stage waits for approval"},
		{"approval does not shorten the hold", func(r *rollout) { r.approved = true }, nil, good, "- running time 1 1h0m10s"},
		{"downtime is no hold", nil, func(in *inputs) { in.elapsed = 30 * day }, good, "- running time 1 1h0m0s"},
		{"a clock that goes back is no hold", nil, func(in *inputs) { in.elapsed = -day }, good, "- running time 1 1h0m0s"},

		{"a breach goes back to the stage before", nil, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a breach goes back though the hold is over", over, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a breach of the stage before switches off", func(r *rollout) { *r = r.enterBack(1) }, nil, bad, "rollback rolled_back breach 1 0s off: " + detail},
		{"so it does after that stage was resumed", func(r *rollout) { r.memory.SteppedBack = true }, nil, bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"a breach of the first stage switches off", func(r *rollout) { r.stage = 0 }, func(in *inputs) { in.flag.Percentage = 0 }, bad, "rollback rolled_back breach 0 1h0m0s off: " + detail},
		{"a breach switches off where the plan says so", func(r *rollout) { r.plan.OnBreach = BreachOff }, nil, bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"a breach pauses where the plan says so", func(r *rollout) { r.plan.OnBreach = BreachPause }, nil, bad, "breach paused breach 1 1h0m0s leaves: " + detail},
		{"and does nothing more then", func(r *rollout) { r.plan.OnBreach = BreachPause; *r = r.stop(StatePaused, reasonBreach) }, nil, bad, "- paused breach 1 1h0m0s"},
		{"a breach is recorded, and holds", func(r *rollout) { over(r); r.plan.OnBreach = BreachNotify }, nil, bad, "breach running breach 1 24h0m0s leaves: " + detail},
		{"and this is recorded once", func(r *rollout) { r.plan.OnBreach, r.waiting = BreachNotify, waitingBreach }, nil, bad, "- running breach 1 1h0m0s"},
		{"too few failing users hold", over, func(in *inputs) { in.users = func(int, time.Time) (int64, error) { return 4, nil } }, bad,
			"wait running users 1 24h0m0s leaves: 48 of 80 requests failed in 2 minutes, 60.0 % where 5 % are allowed, but for only 4 users; a rollback needs 5"},
		{"an outage holds", over, nil, shared, "wait running outage 1 24h0m0s leaves: lately 10 of 20 requests failed because of the node or the database, with or without the feature"},
		{"and this is recorded once", func(r *rollout) { r.waiting = waitingOutage }, nil, shared, "- running outage 1 1h0m0s"},

		{"an operator's pause keeps the stage", func(r *rollout) { over(r); *r = r.stop(StatePaused, reasonOperator) }, nil, good, "- paused operator 1 24h0m10s"},
		{"and keeps the way back", func(r *rollout) { *r = r.stop(StatePaused, reasonOperator) }, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a completed rollout keeps the way back", func(r *rollout) { *r = r.stop(StateCompleted, "") }, nil, bad, "step_back paused breach 0 0s sets: " + detail},
		{"a completed rollout is quiet", func(r *rollout) { *r = r.stop(StateCompleted, "") }, nil, good, "- completed  1 1h0m10s"},

		{"a change of users or the notice is adopted", nil, edited(6, 10, true, ""), good, "adopt running time 1 1h0m0s leaves: sql:dba changed the flag's users or its notice"},
		{"another percentage pauses", nil, edited(6, 3, true, ""), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba set the flag to 3 %, the stage has 10 %; a breach is still acted on"},
		{"another seed pauses", nil, edited(6, 10, true, "x"), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba changed the flag's seed; a breach is still acted on"},
		{"disabling pauses", nil, edited(6, 10, false, ""), good, "hand_edit paused hand_edit 1 1h0m0s leaves: sql:dba disabled the flag"},
		{"a flag that is gone pauses", nil, func(in *inputs) { in.flag = flagHead{} }, good, "hand_edit paused hand_edit 1 1h0m0s leaves: the flag does not exist any more"},
		{"a second change by hand is no news", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(6, 3, true, ""), good, "- paused hand_edit 1 1h0m10s"},
		{"a change by hand keeps the way back, which is off", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(5, 3, true, ""), bad, "rollback rolled_back breach 1 1h0m0s off: " + detail},
		{"nobody who has the feature is no evidence", func(r *rollout) { *r = r.stop(StatePaused, reasonHandEdit) }, edited(5, 3, false, ""), bad, "- paused hand_edit 1 1h0m0s"},
		{"a change by hand ends a completed rollout's watch", func(r *rollout) { *r = r.stop(StateCompleted, "") }, edited(6, 3, true, ""), good, "hand_edit completed hand_edit 1 1h0m0s leaves: sql:dba set the flag to 3 %, the stage has 10 %; a breach is still acted on"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, e := judged(at(StateRunning), c.exposed, Counts{})
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
					t.Errorf("at version %d by %s", s.ifVersion, s.actor)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
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
			t.Errorf("%s %s: %t", c.state, c.reason, got)
		}
	}
}

func TestPlan_StepsBackToFewerUsers(t *testing.T) {
	p := Plan{Stages: []Stage{{}, {Percentage: 10}, {Percentage: 10}, {Percentage: 10, Users: flags.NewIDs("7")}, {Percentage: 10}}}
	for stage, want := range []int{-1, 0, 0, 2, 2} {
		before, ok := p.stepBack(stage)
		if ok != (want >= 0) || ok && before != want {
			t.Errorf("from stage %d to %d, %t; want %d", stage, before, ok, want)
		}
	}
}

func TestPlan_LeavesUsersOfLaterStagesOut(t *testing.T) {
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
