package rollout

import (
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// rollout is a row of automation_rollouts, parsed.
type rollout struct {
	name        string
	plan        Plan
	state       State
	reason      string
	waiting     string
	epoch       int
	stage       int
	run         int64 // the number of the stage run
	approved    bool
	watched     time.Duration // in this stage run
	memory      memory
	flagVersion int64 // that the rollout last wrote or adopted
	seq         int64 // of the last event
	beganAt     time.Time
	enteredAt   time.Time
	lookedAt    time.Time
}

// flagWrite is what a step does to the flag.
type flagWrite int

const (
	writeNothing flagWrite = iota
	writeStage             // enable the flag with the stage's percentage and users
	writeOff               // disable the flag
)

// step is a transition to the rollout next, with its event and its change of the
// flag.
type step struct {
	action Action
	actor  string
	detail string
	next   rollout
	write  flagWrite
	// ifVersion is the version that the flag must have; 0 is any.
	ifVersion int64
}

// enter begins a run of a stage.
func (r rollout) enter(stage int) rollout {
	r.state, r.reason, r.waiting = StateRunning, "", waitingTime
	r.stage, r.approved, r.watched, r.memory = stage, false, 0, memory{}
	r.run++
	return r
}

// stop pauses or ends the rollout in its stage.
func (r rollout) stop(s State, reason string) rollout {
	r.state, r.reason, r.waiting = s, reason, ""
	return r
}

func (r rollout) isLastStage() bool { return r.stage == len(r.plan.Stages)-1 }

// execute returns the step that an operator's action takes, or an *IllegalError.
func (r rollout) execute(a Action, actor string) (step, error) {
	illegal := func(why string) (step, error) {
		return step{}, &IllegalError{Action: a, State: r.state, Why: why, Allowed: allowedActions(r.state)}
	}
	to, ok := transitions[r.state][a]
	switch {
	case !ok && a == ActionAbort && r.state.hasEnded():
		return illegal(fmt.Sprintf("it is %s already; to take the feature away, switch the flag off", r.state))
	case !ok:
		return illegal("")
	}
	s := step{action: a, actor: actor, next: r}
	switch a {
	case ActionStart:
		s.next, s.write = r.enter(0), writeStage
	case ActionRestart:
		s.next, s.write = r.enter(0), writeStage
		s.next.epoch++
	case ActionPause:
		s.next = r.stop(to, reasonOperator)
	case ActionResume:
		s.next.state, s.next.reason, s.next.waiting, s.write = StateRunning, "", waitingTime, writeStage
		if r.reason == reasonBreach {
			s.next = r.enter(r.stage)
			s.next.memory.SteppedBack = r.memory.SteppedBack
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
			s.next = r.stop(StateCompleted, reasonOperator)
		} else {
			s.next, s.write = r.enter(r.stage+1), writeStage
		}
	case ActionPromote:
		if r.isLastStage() {
			return illegal("it is in its last stage already; skip completes it")
		}
		s.next, s.write = r.enter(len(r.plan.Stages)-1), writeStage
	case ActionAbort:
		s.next = r.stop(to, reasonOperator)
		if r.state != StatePending {
			s.write = writeOff
		}
	}
	if r.state == StateRunning && a != ActionAbort {
		s.ifVersion = r.flagVersion // so that no change by hand is overwritten before an evaluation has seen it
	}
	return s, nil
}

// inputs are what an evaluation reads besides the rollout itself.
type inputs struct {
	at         time.Time     // by the database's clock
	elapsed    time.Duration // since the last evaluation
	maxElapsed time.Duration // a longer elapsed time does not count as watched
	evidence   Evidence
	flag       flagHead
	users      userCounter
}

// isWatched reports whether the rollout is evaluated in this state. A paused one
// is, so that a breach can roll it back whatever paused it.
func (r rollout) isWatched() bool {
	switch r.state {
	case StateRunning, StatePaused:
		return true
	case StateCompleted:
		return r.reason != reasonHandEdit
	}
	return false
}

// evaluate returns the rollout with its new memory, and the step that it takes, or
// nil if it takes none.
func (r rollout) evaluate(in inputs) (rollout, *step, error) {
	take := func(a Action, next rollout, w flagWrite, detail string) (rollout, *step, error) {
		if a != actionAdopt {
			next.memory.Detail = detail
		}
		return r, &step{action: a, actor: actorOf(r.name), detail: detail, next: next, write: w, ifVersion: in.flag.Version}, nil
	}
	if in.flag.Version != r.flagVersion {
		adopted := r.adopt(in.flag)
		switch {
		case r.isUsersOnly(in.flag):
			return take(actionAdopt, adopted, writeNothing, fmt.Sprintf("%s changed the flag's users or its notice", in.flag.By))
		case r.reason != reasonHandEdit:
			state := StatePaused
			if r.state == StateCompleted {
				state = StateCompleted
			}
			return take(actionHandEdit, adopted.stop(state, reasonHandEdit), writeNothing, r.editDetail(in.flag))
		}
		r = adopted
	}
	if !in.flag.Enabled {
		return r, nil, nil // nobody has the feature, so there is no evidence
	}
	var found finding
	var err error
	if r.memory, found, err = r.memory.update(r.plan, in.evidence, in.at, in.users); err != nil {
		return r, nil, err
	}
	if found.breach {
		back, ok := r.plan.stepBack(r.stage)
		switch {
		case r.plan.OnBreach == BreachRollback && ok && !r.memory.SteppedBack && r.reason != reasonHandEdit:
			return take(actionStepBack, r.enterBack(back), writeStage, found.detail)
		case r.plan.OnBreach == BreachRollback, r.plan.OnBreach == BreachOff:
			return take(actionRollback, r.stop(StateRolledBack, reasonBreach), writeOff, found.detail)
		case r.plan.OnBreach == BreachPause && r.reason != reasonBreach:
			return take(actionBreach, r.stop(StatePaused, reasonBreach), writeNothing, found.detail)
		case r.plan.OnBreach == BreachPause:
			return r, nil, nil
		}
		found.waiting = waitingBreach
	}
	waiting, detail := found.waiting, found.detail
	if waiting == "" {
		r = r.addWatched(in)
		waiting, detail = r.waitsFor(in.evidence.Exposed.Outcomes)
	}
	switch {
	case waiting == "" && r.state == StateRunning && r.isLastStage():
		return take(actionComplete, r.stop(StateCompleted, ""), writeNothing, "")
	case waiting == "" && r.state == StateRunning:
		return take(actionAdvance, r.enter(r.stage+1), writeStage, "")
	case r.state != StateRunning && found.waiting == "":
		waiting, detail = "", r.memory.Detail
	}
	changed := r.waiting != waiting
	r.waiting, r.memory.Detail = waiting, detail
	switch {
	case !changed || waiting == "" || waiting == waitingTime:
		return r, nil, nil
	case waiting == waitingBreach:
		return take(actionBreach, r, writeNothing, detail)
	}
	return take(actionWait, r, writeNothing, detail)
}

// enterBack begins a run of an earlier stage after a breach, and pauses there.
func (r rollout) enterBack(stage int) rollout {
	back := r.enter(stage).stop(StatePaused, reasonBreach)
	back.memory.SteppedBack = true
	return back
}

// adopt accepts somebody else's change of the flag.
func (r rollout) adopt(f flagHead) rollout {
	r.flagVersion, r.memory.FlagSeed = f.Version, &f.Seed
	return r
}

// isUsersOnly reports whether a flag that somebody else changed still has the
// stage's percentage and seed, so that only its users or its notice have changed.
func (r rollout) isUsersOnly(f flagHead) bool {
	return f.Version != 0 && f.Enabled && f.percentage() == r.plan.Stages[r.stage].Percentage &&
		(r.memory.FlagSeed == nil || *r.memory.FlagSeed == f.Seed)
}

// editDetail describes a change of the flag by somebody else that pauses the
// rollout or, if it is completed, ends its watch.
func (r rollout) editDetail(f flagHead) string {
	effect := "a breach is still acted on"
	if r.state == StateCompleted {
		effect = "the rollout is not watched any more"
	}
	switch planned := r.plan.Stages[r.stage].Percentage; {
	case f.Version == 0:
		return "the flag does not exist any more"
	case !f.Enabled:
		return f.By + " disabled the flag"
	case f.percentage() != planned:
		return fmt.Sprintf("%s set the flag to %v %%, the stage has %v %%; %s", f.By, f.percentage(), planned, effect)
	}
	return f.By + " changed the flag's seed; " + effect
}

// addWatched adds the time since the last evaluation to the watched time, unless
// that was too long ago. The watched time stops at the end of a quarter of the hold
// until the quarter has its samples.
func (r rollout) addWatched(in inputs) rollout {
	s := r.plan.Stages[r.stage]
	if in.elapsed <= 0 || in.elapsed > in.maxElapsed {
		return r
	}
	r.watched += in.elapsed
	if r.memory.Quarters >= quarters || s.MinSamples == 0 {
		return r
	}
	end := s.Hold * time.Duration(r.memory.Quarters+1) / quarters
	if r.watched < end {
		return r
	}
	if n := in.evidence.Exposed.Outcomes; n-r.memory.QuarterOutcomes >= s.quarterSamples() {
		r.memory.Quarters, r.memory.QuarterOutcomes = r.memory.Quarters+1, n
		end = s.Hold * time.Duration(min(r.memory.Quarters+1, quarters)) / quarters
	}
	if r.memory.Quarters < quarters {
		r.watched = min(r.watched, end)
	}
	return r
}

// quarters is the number of equal parts of a hold, of which each needs its share
// of the samples.
const quarters = 4

func (s Stage) quarterSamples() int64 { return (s.MinSamples + quarters - 1) / quarters }

// waitsFor returns what a healthy stage waits for, and why, or "" if it can pass.
func (r rollout) waitsFor(outcomes int64) (waiting, detail string) {
	s := r.plan.Stages[r.stage]
	end := s.Hold * time.Duration(min(r.memory.Quarters+1, quarters)) / quarters
	switch {
	case s.Hold > 0 && s.MinSamples > 0 && r.memory.Quarters < quarters && r.watched >= end:
		return waitingSamples, fmt.Sprintf("watched for %v; this quarter of the hold has %d of %d outcomes", r.watched.Round(time.Second), outcomes-r.memory.QuarterOutcomes, s.quarterSamples())
	case r.watched < s.Hold:
		return waitingTime, ""
	case outcomes < s.MinSamples:
		return waitingSamples, fmt.Sprintf("the stage has %d of %d outcomes", outcomes, s.MinSamples)
	case s.Approval && !r.approved:
		return waitingApproval, "the hold is over, and the stage waits for approval"
	}
	return "", ""
}

// actorOf returns the actor of a rollout's own changes in the flag's audit.
func actorOf(name string) string { return "rollout:" + name }

// change returns what a step writes to the flag f.
func (s step) change(f flagsql.Flag) flagsql.Change {
	var c flagsql.Change
	p := s.next.plan
	switch s.write {
	case writeNothing:
	case writeStage:
		c.Enabled, c.Percentage = new(true), new(int(p.Stages[s.next.stage].Percentage))
		if p.hasUsers() {
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
