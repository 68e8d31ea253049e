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
	bake        int64
	approved    bool
	watched     time.Duration
	watch       watch
	flagVersion int64
	seq         int64
	beganAt     time.Time
	enteredAt   time.Time
	lookedAt    time.Time
}

// write is what a step does to the flag.
type write int

const (
	nothing  write = iota
	setStage       // as the stage has it
	setOff
)

// step is a transition: where it leads and what goes with it.
type step struct {
	action Action
	actor  string
	detail string
	next   rollout
	write  write
	// ifVersion is the version that the flag must be at; 0 is any.
	ifVersion int64
}

// enter is the beginning of a stage's watch.
func (r rollout) enter(stage int) rollout {
	r.state, r.reason, r.waiting = Running, "", ForTime
	r.stage, r.approved, r.watched, r.watch = stage, false, 0, watch{}
	r.bake++
	return r
}

func (r rollout) end(s State, reason string) rollout {
	r.state, r.reason, r.waiting = s, reason, ""
	return r
}

func (r rollout) last() bool { return r.stage == len(r.plan.Stages)-1 }

// do is what an operator's action leads to.
func (r rollout) do(a Action, actor string) (step, error) {
	to, ok := machine[r.state][a]
	if !ok {
		return step{}, &IllegalError{Action: a, State: r.state, Legal: Legal(r.state)}
	}
	illegal := func(why string) (step, error) {
		return step{}, &IllegalError{Action: a, State: r.state, Why: why, Legal: Legal(r.state)}
	}
	s := step{action: a, actor: actor, next: r}
	switch a {
	case Start:
		s.next, s.write = r.enter(0), setStage
	case Restart:
		s.next, s.write = r.enter(0), setStage
		s.next.epoch++
	case Pause:
		s.next = r.end(to, ByOperator)
	case Resume:
		s.next.state, s.next.reason, s.next.waiting, s.write = Running, "", ForTime, setStage
		if r.reason == ByBreach {
			s.next = r.enter(r.stage)
		}
	case Approve:
		if !r.plan.Stages[r.stage].Approval {
			return illegal("this stage passes without approval")
		}
		if r.approved {
			return illegal("this stage is approved already")
		}
		s.next.approved = true
	case Skip:
		s.next, s.write = r.enter(r.stage+1), setStage
		if r.last() {
			s.next, s.write = r.end(Completed, ByOperator), nothing
		}
	case Promote:
		if r.last() {
			return illegal("it is in its last stage already; skip ends the watch")
		}
		s.next, s.write = r.enter(len(r.plan.Stages)-1), setStage
	case Abort:
		s.next = r.end(to, ByOperator)
		if r.state != Pending {
			s.write = setOff
		}
	}
	if r.state == Running && a != Abort {
		s.ifVersion = r.flagVersion // a hand edit that no look has seen yet
	}
	return s, nil
}

// sight is what a look sees beside the rollout itself.
type sight struct {
	elapsed     time.Duration // since the last look, by the database's clock
	gap         time.Duration // the longest that one is believed to have watched
	evidence    Evidence
	flagVersion int64 // 0: the flag is gone
	flagBy      string
}

// watching tells whether looks go on in this state.
func (r rollout) watching() bool {
	return r.state == Running || r.state == Paused && r.reason == ByOperator
}

// look is what the controller does by itself: the rollout with what it has
// learnt, and a step where there is one to take.
func (r rollout) look(in sight) (rollout, *step) {
	took := func(a Action, next rollout, w write, detail string) (rollout, *step) {
		return r, &step{action: a, actor: actorOf(r.name), detail: detail, next: next, write: w, ifVersion: r.flagVersion}
	}
	if in.flagVersion != r.flagVersion {
		detail := fmt.Sprintf("the flag was changed by %s: it is at version %d, the rollout left it at %d", in.flagBy, in.flagVersion, r.flagVersion)
		if in.flagVersion == 0 {
			detail = "the flag is gone"
		}
		return took(HandEdited, r.end(Paused, ByHandEdit), nothing, detail)
	}
	var found finding
	shut := r.watch.Shut != nil
	r.watch, found = r.watch.look(r.plan, in.evidence)
	var waiting string
	switch {
	case found.breach && r.plan.OnBreach == Rollback:
		return took(TookBack, r.end(RolledBack, ByBreach), setOff, found.detail)
	case found.breach && r.plan.OnBreach == PauseOnBreach:
		return took(Breached, r.end(Paused, ByBreach), nothing, found.detail)
	case found.breach:
		waiting = ForBreach
	case found.outage:
		waiting = ForOutage
	default:
		// Time in which nobody looked is no hold, nor is that of an outage.
		if in.elapsed > 0 && in.elapsed <= in.gap && !shut {
			r.watched += in.elapsed
		}
		waiting = r.waits(in.evidence.Exposed.Outcomes)
	}
	if waiting == "" && r.state == Running {
		if r.last() {
			return took(Finished, r.end(Completed, ""), nothing, "")
		}
		return took(Advanced, r.enter(r.stage+1), setStage, "")
	}
	if r.state == Paused && waiting != ForBreach && waiting != ForOutage {
		waiting = ""
	}
	was := r.waiting
	r.waiting = waiting
	if waiting == was {
		return r, nil
	}
	switch waiting {
	case ForBreach:
		return took(Breached, r, nothing, found.detail)
	case ForOutage:
		return took(Waits, r, nothing, found.detail)
	case ForSamples:
		return took(Waits, r, nothing, fmt.Sprintf("the stage has held, but has only %d of %d outcomes", in.evidence.Exposed.Outcomes, r.plan.Stages[r.stage].MinSamples))
	case ForApproval:
		return took(Waits, r, nothing, "the stage has held and waits for approval")
	}
	return r, nil
}

// waits tells what a healthy stage waits for, or "" where it can pass.
func (r rollout) waits(samples int64) string {
	switch s := r.plan.Stages[r.stage]; {
	case r.watched < s.Hold:
		return ForTime
	case samples < s.MinSamples:
		return ForSamples
	case s.Approval && !r.approved:
		return ForApproval
	}
	return ""
}

// actorOf is who the flag's audit says changed it.
func actorOf(name string) string { return "rollout:" + name }

// change is what a step writes to the flag, as it is.
func (s step) change(f flagsql.Flag) flagsql.Change {
	var c flagsql.Change
	p := s.next.plan
	switch s.write {
	case setStage:
		c.Enabled, c.Percentage = new(true), new(int(p.Stages[s.next.stage].Percentage))
		if p.namesUsers() {
			c.EnabledUserIDs = append([]string{}, p.users(flags.NewIDs(f.EnabledUserIDs...), s.next.stage).List()...)
		}
		if p.Notice != "" && f.Notice == p.Notice {
			c.Notice = new(string)
		}
	case setOff:
		c.Enabled = new(bool)
		if p.Notice != "" {
			c.Notice = &p.Notice
		}
	}
	return c
}
