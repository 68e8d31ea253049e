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
	actions = []Action{ActionStart, ActionPause, ActionResume, ActionApprove, ActionSkip, ActionPromote, ActionAbort, ActionRestart, ActionCreate, ActionAdvance, ActionComplete, ActionRollback, ActionBreach, ActionHandEdit, ActionWait, "", "explode"}
)

// at is a rollout of the default plan in its second stage, which needs approval.
func at(s State) rollout {
	p := DefaultPlan()
	p.Stages[1].Approval = true
	return rollout{name: "x", plan: p, state: s, epoch: 3, stage: 1, run: 7, watched: time.Hour, flagVersion: 5, waiting: WaitingTime}
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
	if _, err := at(StatePaused).execute(ActionApprove, "a"); err == nil || err.Error() != "approve: not possible now: the rollout is paused; possible are: abort, promote, resume, skip" {
		t.Error(err)
	}
	r = at(StatePaused)
	for reason, want := range map[string]time.Duration{ReasonOperator: time.Hour, ReasonHandEdit: time.Hour, ReasonBreach: 0} {
		r.reason = reason
		if s, err := r.execute(ActionResume, "a"); err != nil || s.next.watched != want || s.next.reason != "" {
			t.Errorf("resumed after %s: %+v, %v", reason, s.next, err)
		}
	}
}

// bad is evidence of a breach.
func bad() Evidence { return Evidence{Exposed: Counts{Outcomes: 100, Failures: 60}} }

func good() Evidence { return Evidence{Exposed: Counts{Outcomes: 1000, Failures: 10}} }

func outage() Evidence {
	return Evidence{Exposed: Counts{Outcomes: 100, Failures: 60}, Control: Counts{Outcomes: 100, Failures: 55}}
}

func TestEvaluate_TakesTheStepThatFollows(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		r    func(*rollout)
		in   func(*inputs)
		want string // action, state, reason and what it waits for, stage, watched, what is written
	}{
		{"a stage holds", nil, nil, "- running time 1 1h0m10s"},
		{"a stage passes after its hold", func(r *rollout) { r.watched, r.approved = day, true }, nil, "advance running time 2 0s sets"},
		{"the last stage ends the rollout", func(r *rollout) { r.watched, r.stage = 3*day, 3 }, nil, "complete completed  3 72h0m10s leaves"},
		{"too few samples hold", func(r *rollout) { r.watched, r.approved = day, true },
			func(in *inputs) { in.evidence = Evidence{Exposed: Counts{Outcomes: 99}} }, "wait running samples 1 24h0m10s leaves: the stage has held, but has only 99 of 100 outcomes"},
		{"and it is recorded once", func(r *rollout) { r.watched, r.waiting = day, WaitingSamples },
			func(in *inputs) { in.evidence = Evidence{} }, "- running samples 1 24h0m10s"},
		{"a stage waits for approval", func(r *rollout) { r.watched = day }, nil, "wait running approval 1 24h0m10s leaves: the stage has held and waits for approval"},
		{"approval does not shorten the hold", func(r *rollout) { r.approved = true }, nil, "- running time 1 1h0m10s"},
		{"downtime is no hold", nil, func(in *inputs) { in.elapsed = 30 * day }, "- running time 1 1h0m0s"},
		{"a clock that goes back is no hold", nil, func(in *inputs) { in.elapsed = -day }, "- running time 1 1h0m0s"},
		{"a breach rolls back", nil, func(in *inputs) { in.evidence = bad() },
			"rollback rolled_back breach 1 1h0m0s off: 60 of 100 requests failed, 60.0 % where 5 % are allowed (e-value 6.43e+47)"},
		{"a breach counts though the hold is over", func(r *rollout) { r.watched, r.approved = day, true }, func(in *inputs) { in.evidence = bad() },
			"rollback rolled_back breach 1 24h0m0s off: 60 of 100 requests failed, 60.0 % where 5 % are allowed (e-value 6.43e+47)"},
		{"a breach pauses", func(r *rollout) { r.plan.OnBreach = BreachPause }, func(in *inputs) { in.evidence = bad() },
			"breach paused breach 1 1h0m0s leaves: 60 of 100 requests failed, 60.0 % where 5 % are allowed (e-value 6.43e+47)"},
		{"a breach is recorded, and holds", func(r *rollout) { r.plan.OnBreach, r.watched, r.approved = BreachNotify, day, true }, func(in *inputs) { in.evidence = bad() },
			"breach running breach 1 24h0m0s leaves: 60 of 100 requests failed, 60.0 % where 5 % are allowed (e-value 6.43e+47)"},
		{"and it is recorded once", func(r *rollout) { r.plan.OnBreach, r.waiting = BreachNotify, WaitingBreach }, func(in *inputs) { in.evidence = bad() }, "- running breach 1 1h0m0s"},
		{"an outage holds", func(r *rollout) { r.watched, r.approved = day, true }, func(in *inputs) { in.evidence = outage() },
			"wait running outage 1 24h0m0s leaves: lately 60 of 100 requests failed, and so did 55 of 100 without the feature: the cause is elsewhere"},
		{"and it is recorded once", func(r *rollout) { r.waiting = WaitingOutage }, func(in *inputs) { in.evidence = outage() }, "- running outage 1 1h0m0s"},
		{"a hand edit pauses", nil, func(in *inputs) { in.flagVersion, in.flagBy = 6, "sql:dba" },
			"hand_edit paused hand_edit 1 1h0m0s leaves: the flag was changed by sql:dba: it is at version 6, the rollout left it at 5"},
		{"a hand edit goes before a breach", nil, func(in *inputs) { in.flagVersion, in.flagBy, in.evidence = 6, "dba", bad() },
			"hand_edit paused hand_edit 1 1h0m0s leaves: the flag was changed by dba: it is at version 6, the rollout left it at 5"},
		{"a flag that is gone pauses", nil, func(in *inputs) { in.flagVersion = 0 }, "hand_edit paused hand_edit 1 1h0m0s leaves: the flag is gone"},
		{"an operator's pause stays where it is", func(r *rollout) {
			r.state, r.reason, r.watched, r.approved, r.waiting = StatePaused, ReasonOperator, day, true, ""
		}, nil, "- paused operator 1 24h0m10s"},
		{"and is quiet", func(r *rollout) { r.state, r.reason, r.watched, r.waiting = StatePaused, ReasonOperator, day, "" }, nil, "- paused operator 1 24h0m10s"},
		{"and keeps the way back", func(r *rollout) { r.state, r.reason, r.waiting = StatePaused, ReasonOperator, "" }, func(in *inputs) { in.evidence = bad() },
			"rollback rolled_back breach 1 1h0m0s off: 60 of 100 requests failed, 60.0 % where 5 % are allowed (e-value 6.43e+47)"},
		{"and notices a hand edit", func(r *rollout) { r.state, r.reason, r.waiting = StatePaused, ReasonOperator, "" }, func(in *inputs) { in.flagVersion, in.flagBy = 6, "dba" },
			"hand_edit paused hand_edit 1 1h0m0s leaves: the flag was changed by dba: it is at version 6, the rollout left it at 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := at(StateRunning)
			in := inputs{elapsed: 10 * time.Second, maxElapsed: 10 * time.Second, evidence: good(), flagVersion: 5, flagBy: "rollout:x"}
			if c.r != nil {
				c.r(&r)
			}
			if c.in != nil {
				c.in(&in)
			}
			after, s := r.evaluate(in)
			text := func(r rollout) string {
				return fmt.Sprintf("%s %s %d %v", r.state, r.reason+r.waiting, r.stage, r.watched)
			}
			got := "- " + text(after)
			if s != nil {
				got = fmt.Sprintf("%s %s %s", s.action, text(s.next), []string{"leaves", "sets", "off"}[s.write])
				if s.detail != "" {
					got += ": " + s.detail
				}
				if s.ifVersion != 5 || s.actor != "rollout:x" {
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
		{StatePending, "", false}, {StateRunning, "", true}, {StatePaused, ReasonOperator, true}, {StatePaused, ReasonBreach, false}, {StatePaused, ReasonHandEdit, false},
		{StateCompleted, "", false}, {StateRolledBack, ReasonBreach, false}, {StateAborted, ReasonOperator, false},
	} {
		if got := (rollout{state: c.state, reason: c.reason}).isWatched(); got != c.want {
			t.Errorf("%s %s: %t", c.state, c.reason, got)
		}
	}
}

func TestPlan_LeavesUsersOfLaterStagesOut(t *testing.T) {
	p := Plan{Stages: []Stage{{Users: flags.NewIDs("a")}, {}, {Users: flags.NewIDs("b", "c")}}}
	if !p.namesUsers() || DefaultPlan().namesUsers() {
		t.Error("namesUsers")
	}
	has := flags.NewIDs("x", "b")
	for stage, want := range []flags.IDs{flags.NewIDs("a", "x"), flags.NewIDs("a", "x"), flags.NewIDs("a", "b", "c", "x")} {
		if got := p.users(has, stage); !got.Equal(want) {
			t.Errorf("stage %d: %v, want %v", stage, got.List(), want.List())
		}
	}
}
