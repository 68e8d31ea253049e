// Package rollout moves a flag through the stages of a plan, watches what
// becomes of the requests, and takes the feature back by itself when too many
// of them fail.
//
// The smallest program, on the host's *sqlx.DB with the tables that
// automation/schema makes:
//
//	c, err := rollout.New(db, rollout.Options{})
//	go c.Run(ctx)
//	decider := c.Decider(watcher)       // in the place of the watcher
//	recorder := c.Recorder("automation")
//	...
//	recorder.Record(rollout.Exposed, rollout.Success, userID, latency, dbTime)
//
// and once, by an operator:
//
//	c.Create(ctx, "automation", rollout.DefaultPlan(), "ops@example.com")
//	c.Do(ctx, "automation", rollout.Order{Action: rollout.Start, Actor: "ops@example.com"})
//
// # Stages
//
// A [Plan] is data. A stage sets the flag's percentage, adds users, and passes
// when it has been watched for its hold, has its samples, and is approved where
// it must be; the last one's end completes the rollout. Only time in which a
// replica looked counts as watched: whatever was down, and for however long, no
// stage is skipped. A stage with too little traffic holds.
//
// # Evidence
//
// [Recorder.Record] counts in memory, and each pass hands in the counts of this
// replica, which only grow: handing them in again changes nothing. There are
// two arms: requests that the feature acted on, and those of users who may get
// it and have not. Errors of callers and of the host count in neither, and
// nobody contributes more than a few outcomes a minute.
//
// A [Policy] decides when more requests fail, or are slow, than the plan allows.
// When the control arm fails as well, the cause is elsewhere: the rollout holds,
// and what it saw meanwhile is no evidence. In a stage where everybody is
// exposed there is no control arm, and an outage looks like a fault.
//
// # States
//
// A rollout is pending, running, paused, completed, rolled back or aborted; each
// of the operators' actions is possible where [Legal] says so. Paused by an
// operator it goes no further, and its watch, with the way back, goes on. Paused
// by a breach or by a hand edit it does nothing until a human acts.
//
// A change of the flag by anybody else, in SQL or by the API, pauses the rollout
// and is left as it is; Resume sets the flag to the stage again. Rolled back and
// aborted, the flag is switched off; Restart begins with the first stage, with
// the same users, because the flag's seed is never touched.
//
// # Replicas
//
// Each replica passes on its own; whoever gets the rollout's row looks, decides,
// and writes flag, rollout, one event and its webhooks in one transaction. There
// is no leader, no clock but the database's, and a replica that freezes in the
// middle is thrown out by the server after the transaction's time-out.
//
// A replica of which 12 of the last 20 outcomes failed takes itself out, with
// the database or without, see [Recorder.Tripped]. It does so for the decisions
// that [Controller.Decider] makes, and logs it; the history has it as an event.
//
// # Telling people
//
// Every event goes to the [Webhook]s through an outbox, written in the event's
// own transaction: at least once, in order, whatever crashes. Any replica that
// runs sends what any process has written, the operators' command included.
package rollout
