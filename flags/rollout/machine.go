package rollout

import (
	"maps"
	"slices"
)

// State of a rollout.
type State string

// The states.
const (
	Pending    State = "pending"     // has a plan and has not been started
	Running    State = "running"     // goes through its stages
	Paused     State = "paused"      // stays where it is, see Status.Reason
	Completed  State = "completed"   // has passed its last stage; the flag is left as it is
	RolledBack State = "rolled_back" // has taken the feature back by itself
	Aborted    State = "aborted"     // was ended by an operator
)

// Action is what happened to a rollout. Those of operators are given to
// Controller.Do; the others are the controller's own.
type Action string

// The operators' actions.
const (
	Start   Action = "start"   // begin with the first stage
	Pause   Action = "pause"   // stay in the stage; the watch, and with it the way back, goes on
	Resume  Action = "resume"  // go on, and set the flag to the stage; after a breach the stage begins anew
	Approve Action = "approve" // let a stage that needs approval pass, once all else has
	Skip    Action = "skip"    // on to the next stage at once; from the last, to completed
	Promote Action = "promote" // on to the last stage at once, which is watched as ever
	Abort   Action = "abort"   // end, and switch the flag off if the rollout has begun
	Restart Action = "restart" // begin again with the first stage, same cohort, in a new epoch
)

// The controller's actions.
const (
	Created    Action = "create"
	Advanced   Action = "advance"   // to the next stage
	Finished   Action = "complete"  // the last stage is over
	TookBack   Action = "rollback"  // a breach, by a plan that says rollback
	Breached   Action = "breach"    // by a plan that says pause or notify
	HandEdited Action = "hand_edit" // somebody changed the flag: paused
	Waits      Action = "wait"      // the stage has held long enough and waits for something else, or for an outage to end
	Tripped    Action = "trip"      // a replica took itself out, see Recorder.Tripped
)

// machine is where an operator's action leads; what is not in it is illegal.
var machine = map[State]map[Action]State{
	Pending:    {Start: Running, Abort: Aborted},
	Running:    {Pause: Paused, Approve: Running, Skip: Running, Promote: Running, Abort: Aborted},
	Paused:     {Resume: Running, Skip: Running, Promote: Running, Abort: Aborted},
	Completed:  {Restart: Running},
	RolledBack: {Restart: Running},
	Aborted:    {Restart: Running},
}

// Legal lists what an operator can do to a rollout in a state, in alphabetical order.
func Legal(s State) []Action { return slices.Sorted(maps.Keys(machine[s])) }

// ended tells whether nothing goes on by itself any more, so that another plan may follow.
func (s State) ended() bool { return s == Completed || s == RolledBack || s == Aborted }

// Why a rollout is paused, or ended.
const (
	ByOperator = "operator"
	ByBreach   = "breach"
	ByHandEdit = "hand_edit"
)

// What a running stage waits for.
const (
	ForTime     = "time"     // its hold
	ForSamples  = "samples"  // min_samples: there is too little traffic
	ForApproval = "approval" // the action approve
	ForOutage   = "outage"   // both arms fail: not the feature's fault
	ForBreach   = "breach"   // by a plan that says notify
)
