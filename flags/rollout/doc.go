// Package rollout moves a flag through the stages of a plan, watches how requests
// end, and takes the feature back automatically when too many of them fail.
//
// The smallest program, on the host's *sqlx.DB with the tables that
// automation/schema creates:
//
//	c, err := rollout.New(db, rollout.Options{})
//	go c.Run(ctx)
//	recorder := c.Recorder("search")
//	...
//	if arm, ok := rollout.ArmOf(watcher.Decide("search", user)); ok {
//		recorder.Record(rollout.Sample{Arm: arm, Outcome: rollout.OutcomeSuccess, UserID: user, Latency: latency})
//	}
//
// Operators start and control a rollout with `automationctl rollout`, with the
// module's API for operators if the host mounts it, or through [Controller.Start]
// and [Controller.Execute]. For the flag "automation" the module itself runs a
// controller and records outcomes; a host must do neither.
//
// # Stages
//
// A plan is a list of stages, written in JSON. A stage sets the flag's percentage
// and adds users. It passes when it has been watched for its hold, has its samples
// and, if it needs approval, is approved. The rollout is complete when its last
// stage has passed. Only time in which a replica evaluates the rollout counts as
// watched, so that no stage passes while gateways or the database are down. A stage
// with too little traffic waits.
//
// # Evidence
//
// [Recorder.Record] counts in memory, and each pass writes the counts of its
// replica. They are totals, so that writing them again changes nothing. There are
// two arms: requests that the feature acted on (exposed), and requests of users who
// may get the feature later (control). Errors of callers count in neither arm, and
// no user contributes more than a few outcomes a minute.
//
// A sequential test decides when more requests fail, or are slow, than the plan
// allows: a breach. When the control arm fails as well, the cause is not the
// feature. The rollout then waits, and requests of that time are no evidence.
//
// # States
//
// A rollout is pending, running, paused, completed, rolled back or aborted. The
// error of an action that the state does not allow is [ErrIllegal]. A paused rollout
// does not advance until an operator acts, but a breach still rolls it back.
//
// If somebody else changes the flag's users or notice, the rollout continues with
// them. Any other change, in SQL or through the API, stays as it is and pauses the
// rollout; resuming sets the flag to the stage again. When a rollout is rolled back
// or aborted, the flag is switched off. A restart begins with the first stage, and
// the same users get the feature first, because the flag's seed never changes.
//
// # Replicas
//
// Each replica makes its own passes. The replica that locks the rollout's row
// evaluates the rollout, and writes the flag, the rollout, one event and its webhook
// messages in one transaction. There is no leader, and all times are the
// database's. The server ends the transaction of a replica that freezes during it.
//
// # Webhooks
//
// Every event goes to the [Webhook]s through an outbox that the event's transaction
// writes. Each receiver gets it at least once and in order, even after crashes. Any
// running replica sends messages that any process has written, such as the
// operators' command.
package rollout
