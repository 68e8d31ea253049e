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
	StateRolledBack State = "rolled_back" // it has switched the flag off automatically
	StateAborted    State = "aborted"     // an operator has ended it
)

// Action is what happened to a rollout. Operators' actions are passed to
// [Store.Execute], except create, which is [Store.Create]. The controller's own are
//   - advance: to the next stage
//   - complete: the last stage has passed
//   - step_back: a breach led back to an earlier stage, where the rollout is paused
//   - rollback: a breach switched the flag off
//   - breach: by a plan that says pause or notify
//   - hand_edit: somebody else changed the flag, and the rollout does not advance
//   - adopt: somebody else changed the flag's users or notice, and it advances
//   - wait: the stage waits for something other than time
type Action string

// The operators' actions.
const (
	ActionStart   Action = "start"   // begin with the first stage
	ActionPause   Action = "pause"   // stay in the stage; it is still watched and rolled back
	ActionResume  Action = "resume"  // continue, and set the flag to the stage; after a breach the stage begins again
	ActionApprove Action = "approve" // let a stage that needs approval pass after its hold, with its samples
	ActionSkip    Action = "skip"    // advance at once; from the last stage, complete
	ActionPromote Action = "promote" // advance to the last stage at once; it is watched as usual
	ActionAbort   Action = "abort"   // end, and switch the flag off if the rollout has begun
	ActionRestart Action = "restart" // begin again with the first stage and the same cohort, in a new epoch
)

// The other actions.
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

// transitions maps a state and an operator's action to the next state. What is
// missing is illegal. A skip of the last stage leads to StateCompleted instead.
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

// hasEnded reports whether the rollout is over, so that another plan may follow. A
// completed one can still roll back.
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
