package rollout

import (
	"maps"
	"slices"
)

// State is the state of a rollout.
type State string

// The states.
const (
	StatePending    State = "pending"     // it has a plan and has not been started
	StateRunning    State = "running"     // it advances through its stages
	StatePaused     State = "paused"      // it stays in its stage, see Status.Reason
	StateCompleted  State = "completed"   // it has passed its last stage; the flag is left as it is
	StateRolledBack State = "rolled_back" // it has switched the flag off by itself
	StateAborted    State = "aborted"     // an operator has ended it
)

// Action is what happened to a rollout. Operators' actions are given to
// [Store.Execute]. The others are the controller's own: create, advance (to the
// next stage), complete (the last stage has passed), step_back (a breach: to the
// stage before, paused), rollback (a breach: the flag is switched off), breach (by
// a plan that says pause or notify), hand_edit (somebody else changed the flag:
// the rollout does not advance), adopt (somebody else changed the flag's users,
// or its notice) and wait (the stage holds for something else than time).
type Action string

// The operators' actions.
const (
	ActionStart   Action = "start"   // begin with the first stage
	ActionPause   Action = "pause"   // stay in the stage; it is still watched and rolled back
	ActionResume  Action = "resume"  // continue, and set the flag to the stage; after a breach the stage begins again
	ActionApprove Action = "approve" // let a stage that needs approval pass once everything else has
	ActionSkip    Action = "skip"    // advance at once; from the last stage, complete
	ActionPromote Action = "promote" // advance to the last stage at once; it is watched as usual
	ActionAbort   Action = "abort"   // end, and switch the flag off if the rollout has begun
	ActionRestart Action = "restart" // begin again with the first stage and the same cohort, in a new epoch
)

// The controller's actions.
const (
	actionCreate   Action = "create"
	actionAdvance  Action = "advance"
	actionComplete Action = "complete"
	actionStepBack Action = "step_back"
	actionRollback Action = "rollback"
	actionBreach   Action = "breach"
	actionHandEdit Action = "hand_edit"
	actionAdopt    Action = "adopt"
	actionWait     Action = "wait"
)

// transitions is where an operator's action leads; what is missing is illegal.
var transitions = map[State]map[Action]State{
	StatePending:    {ActionStart: StateRunning, ActionAbort: StateAborted},
	StateRunning:    {ActionPause: StatePaused, ActionApprove: StateRunning, ActionSkip: StateRunning, ActionPromote: StateRunning, ActionAbort: StateAborted},
	StatePaused:     {ActionResume: StateRunning, ActionSkip: StateRunning, ActionPromote: StateRunning, ActionAbort: StateAborted},
	StateCompleted:  {ActionRestart: StateRunning},
	StateRolledBack: {ActionRestart: StateRunning},
	StateAborted:    {ActionRestart: StateRunning},
}

// allowedActions lists the operators' actions that are legal in a state, in
// alphabetical order.
func allowedActions(s State) []Action { return slices.Sorted(maps.Keys(transitions[s])) }

// hasEnded reports whether nothing happens by itself any more, so that another
// plan may follow.
func (s State) hasEnded() bool {
	return s == StateCompleted || s == StateRolledBack || s == StateAborted
}

// Why a rollout is paused, or has ended.
const (
	reasonOperator = "operator"
	reasonBreach   = "breach"
	reasonHandEdit = "hand_edit"
)

// What a running stage waits for.
const (
	waitingTime     = "time"
	waitingSamples  = "samples"
	waitingApproval = "approval"
	waitingOutage   = "outage"
	waitingUsers    = "users"
	waitingBreach   = "breach"
)
