// Package rollout moves a flag through the stages of a plan, watches what
// becomes of the requests, and takes the feature back by itself when too many
// of them fail.
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
// Operators start and steer it with `automationctl rollout`, with the module's
// operators' API where the host mounts that, or through [Controller.Start] and
// [Controller.Execute]. The flag "automation" is the module's own: the module
// runs a controller and records, and a host does neither.
//
// # Stages
//
// A plan is data. A stage sets the flag's percentage, adds users, and passes
// when it has been watched for its hold, has its samples, and is approved where
// it must be; passing the last one completes the rollout. Only time in which a
// replica evaluated the rollout counts as watched: whatever was down, and for
// however long, no stage is skipped. A stage with too little traffic holds.
//
// # Evidence
//
// [Recorder.Record] counts in memory, and each pass writes the counts of this
// replica, which only grow: writing them again changes nothing. There are two
// arms: requests that the feature acted on, and those of users who may get it
// and have not. Errors of callers count in neither, and nobody contributes more
// than a few outcomes a minute.
//
// A sequential test decides when more requests fail, or are slow, than the plan
// allows. When the control arm fails as well, the cause is elsewhere: the
// rollout holds, and what it saw meanwhile is no evidence.
//
// # States
//
// A rollout is pending, running, paused, completed, rolled back or aborted; an
// action that its state does not allow is an [ErrIllegal]. Paused by an operator
// it does not advance, but is still watched and rolled back. Paused by a breach
// or by a hand edit it does nothing until a human acts.
//
// A change of the flag by anybody else, in SQL or by the API, pauses the rollout
// and is left as it is; resuming sets the flag to the stage again. Rolled back
// and aborted, the flag is switched off; restarting begins with the first stage,
// with the same users, because the flag's seed is never touched.
//
// # Replicas
//
// Each replica makes its own passes; the one that gets the rollout's row
// evaluates it and writes flag, rollout, one event and its webhooks in one
// transaction. There is no leader and no clock but the database's, and the
// server ends the transaction of a replica that freezes in the middle of one.
//
// # Webhooks
//
// Every event goes to the [Webhook]s through an outbox, written in the event's
// own transaction: at least once, in order, whatever crashes. Any replica that
// runs sends what any process has written, the operators' command included.
package rollout
