package rollout

import (
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/internal/flagsql"
)

// rollout is a row of automation_rollouts.
type rollout struct {
	name        string
	plan        Plan
	state       State
	reason      string
	waiting     string
	epoch       int
	stage       int
	run         int64 // the stage run
	approved    bool
	watched     time.Duration
	memory      memory
	flagVersion int64
	seq         int64
	beganAt     time.Time
	enteredAt   time.Time
	lookedAt    time.Time
}

// flagWrite is what a step does to the flag.
type flagWrite int

const (
	writeNothing flagWrite = iota
	writeStage             // as the stage has it
	writeOff
)

// step is a transition: where it leads and what goes with it.
type step struct {
	action Action
	actor  string
	detail string
	next   rollout
	write  flagWrite
	// ifVersion is the version that the flag must be at; 0 is any.
	ifVersion int64
}

// enter begins a run of a stage.
func (r rollout) enter(stage int) rollout {
	r.state, r.reason, r.waiting = StateRunning, "", WaitingTime
	r.stage, r.approved, r.watched, r.memory = stage, false, 0, memory{}
	r.run++
	return r
}

// stop leaves the stage as it is, paused or ended.
func (r rollout) stop(s State, reason string) rollout {
	r.state, r.reason, r.waiting = s, reason, ""
	return r
}

func (r rollout) isLastStage() bool { return r.stage == len(r.plan.Stages)-1 }

// execute returns the step that an operator's action leads to.
func (r rollout) execute(a Action, actor string) (step, error) {
	to, ok := transitions[r.state][a]
	if !ok {
		return step{}, &IllegalError{Action: a, State: r.state, Allowed: AllowedActions(r.state)}
	}
	illegal := func(why string) (step, error) {
		return step{}, &IllegalError{Action: a, State: r.state, Why: why, Allowed: AllowedActions(r.state)}
	}
	s := step{action: a, actor: actor, next: r}
	switch a {
	case ActionStart:
		s.next, s.write = r.enter(0), writeStage
	case ActionRestart:
		s.next, s.write = r.enter(0), writeStage
		s.next.epoch++
	case ActionPause:
		s.next = r.stop(to, ReasonOperator)
	case ActionResume:
		s.next.state, s.next.reason, s.next.waiting, s.write = StateRunning, "", WaitingTime, writeStage
		if r.reason == ReasonBreach {
			s.next = r.enter(r.stage)
		}
	case ActionApprove:
		if !r.plan.Stages[r.stage].Approval {
			return illegal("this stage passes without approval")
		}
		if r.approved {
			return illegal("this stage is approved already")
		}
		s.next.approved = true
	case ActionSkip:
		if r.isLastStage() {
			s.next = r.stop(StateCompleted, ReasonOperator)
		} else {
			s.next, s.write = r.enter(r.stage+1), writeStage
		}
	case ActionPromote:
		if r.isLastStage() {
			return illegal("it is in its last stage already; skip completes it")
		}
		s.next, s.write = r.enter(len(r.plan.Stages)-1), writeStage
	case ActionAbort:
		s.next = r.stop(to, ReasonOperator)
		if r.state != StatePending {
			s.write = writeOff
		}
	}
	if r.state == StateRunning && a != ActionAbort {
		s.ifVersion = r.flagVersion // a hand edit may be there that no evaluation has seen yet
	}
	return s, nil
}

// inputs are what an evaluation knows besides the rollout itself.
type inputs struct {
	elapsed     time.Duration // since the last evaluation, by the database's clock
	maxElapsed  time.Duration // a longer time was not watched
	evidence    Evidence
	flagVersion int64 // 0: the flag is gone
	flagBy      string
}

// isWatched reports whether the rollout is evaluated in this state.
func (r rollout) isWatched() bool {
	return r.state == StateRunning || r.state == StatePaused && r.reason == ReasonOperator
}

// evaluate returns the rollout with what it has learnt, and the step that it
// takes by itself, if any.
func (r rollout) evaluate(in inputs) (rollout, *step) {
	took := func(a Action, next rollout, w flagWrite, detail string) (rollout, *step) {
		return r, &step{action: a, actor: actorOf(r.name), detail: detail, next: next, write: w, ifVersion: r.flagVersion}
	}
	if in.flagVersion != r.flagVersion {
		detail := fmt.Sprintf("the flag was changed by %s: it is at version %d, the rollout left it at %d", in.flagBy, in.flagVersion, r.flagVersion)
		if in.flagVersion == 0 {
			detail = "the flag is gone"
		}
		return took(ActionHandEdit, r.stop(StatePaused, ReasonHandEdit), writeNothing, detail)
	}
	var found finding
	hadOutage := r.memory.Outage != nil
	r.memory, found = r.memory.update(r.plan, in.evidence)
	var waiting string
	switch {
	case found.breach && r.plan.OnBreach == BreachRollback:
		return took(ActionRollback, r.stop(StateRolledBack, ReasonBreach), writeOff, found.detail)
	case found.breach && r.plan.OnBreach == BreachPause:
		return took(ActionBreach, r.stop(StatePaused, ReasonBreach), writeNothing, found.detail)
	case found.breach:
		waiting = WaitingBreach
	case found.outage:
		waiting = WaitingOutage
	default:
		// Neither time in which nobody watched nor that of an outage is a hold.
		if in.elapsed > 0 && in.elapsed <= in.maxElapsed && !hadOutage {
			r.watched += in.elapsed
		}
		waiting = r.waitsFor(in.evidence.Exposed.Outcomes)
	}
	if waiting == "" && r.state == StateRunning {
		if r.isLastStage() {
			return took(ActionComplete, r.stop(StateCompleted, ""), writeNothing, "")
		}
		return took(ActionAdvance, r.enter(r.stage+1), writeStage, "")
	}
	if r.state == StatePaused && waiting != WaitingBreach && waiting != WaitingOutage {
		waiting = ""
	}
	was := r.waiting
	r.waiting = waiting
	if waiting == was {
		return r, nil
	}
	switch waiting {
	case WaitingBreach:
		return took(ActionBreach, r, writeNothing, found.detail)
	case WaitingOutage:
		return took(ActionWait, r, writeNothing, found.detail)
	case WaitingSamples:
		return took(ActionWait, r, writeNothing, fmt.Sprintf("the stage has held, but has only %d of %d outcomes", in.evidence.Exposed.Outcomes, r.plan.Stages[r.stage].MinSamples))
	case WaitingApproval:
		return took(ActionWait, r, writeNothing, "the stage has held and waits for approval")
	}
	return r, nil
}

// waitsFor returns what a healthy stage waits for, or "" where it can pass.
func (r rollout) waitsFor(samples int64) string {
	switch s := r.plan.Stages[r.stage]; {
	case r.watched < s.Hold:
		return WaitingTime
	case samples < s.MinSamples:
		return WaitingSamples
	case s.Approval && !r.approved:
		return WaitingApproval
	}
	return ""
}

// actorOf is the actor of a rollout's own changes in the flag's audit.
func actorOf(name string) string { return "rollout:" + name }

// change returns what a step writes to the flag f.
func (s step) change(f flagsql.Flag) flagsql.Change {
	var c flagsql.Change
	p := s.next.plan
	switch s.write {
	case writeNothing:
	case writeStage:
		c.Enabled, c.Percentage = new(true), new(int(p.Stages[s.next.stage].Percentage))
		if p.namesUsers() {
			c.EnabledUserIDs = append([]string{}, p.users(flags.NewIDs(f.EnabledUserIDs...), s.next.stage).List()...)
		}
		if p.Notice != "" && f.Notice == p.Notice {
			c.Notice = new(string)
		}
	case writeOff:
		c.Enabled = new(bool)
		if p.Notice != "" {
			c.Notice = &p.Notice
		}
	}
	return c
}
