package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// row is a rollout as the database has it.
type row struct {
	Name        string     `db:"name"`
	Plan        string     `db:"plan"`
	State       string     `db:"state"`
	Reason      string     `db:"reason"`
	Waiting     string     `db:"waiting"`
	Epoch       int        `db:"epoch"`
	Stage       int        `db:"stage"`
	Run         int64      `db:"bake"`
	Approved    bool       `db:"approved"`
	Watched     float64    `db:"watched"`
	Memory      string     `db:"watch"`
	FlagVersion int64      `db:"flag_version"`
	Seq         int64      `db:"seq"`
	BeganAt     sqldb.Time `db:"began_at"`
	EnteredAt   sqldb.Time `db:"entered_at"`
	LookedAt    sqldb.Time `db:"looked_at"`
	LookedIn    float64    `db:"looked_in"` // seconds from now until looked_at: below 0
	DueIn       float64    `db:"due_in"`
}

const columns = `name, plan, state, reason, waiting, epoch, stage, bake, approved, watched, watch, flag_version, seq,
	began_at, entered_at, looked_at, {until looked_at} AS looked_in, {until next_at} AS due_in`

// readRollout reads one rollout, or none; suffix is how it is locked. A row that
// cannot be read is a *RowError.
func readRollout(tx *sqldb.Tx, name, suffix string) (*row, *rollout, error) {
	var w row
	found, err := sqldb.Optional(tx.Get(&w, `SELECT `+columns+` FROM automation_rollouts WHERE name = $1 `+suffix, name))
	if err != nil && strings.Contains(err.Error(), "Scan error") {
		err = &RowError{name, err}
	}
	if !found {
		return nil, nil, err
	}
	r, err := w.rollout()
	if err != nil {
		return nil, nil, &RowError{name, err}
	}
	return &w, r, nil
}

func (w row) rollout() (*rollout, error) {
	r := &rollout{
		name: w.Name, state: State(w.State), reason: w.Reason, waiting: w.Waiting, epoch: w.Epoch, stage: w.Stage, run: w.Run,
		approved: w.Approved, watched: time.Duration(w.Watched * float64(time.Second)), flagVersion: w.FlagVersion, seq: w.Seq,
		beganAt: w.BeganAt.Time, enteredAt: w.EnteredAt.Time, lookedAt: w.LookedAt.Time,
	}
	var err error
	if r.plan, err = ParsePlan([]byte(w.Plan)); err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	if err := json.Unmarshal([]byte(w.Memory), &r.memory); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if _, ok := transitions[r.state]; !ok {
		return nil, fmt.Errorf("state: %.40q is none", w.State)
	}
	if r.stage < 0 || r.stage >= len(r.plan.Stages) {
		return nil, fmt.Errorf("stage: %d is not among the plan's %d", r.stage, len(r.plan.Stages))
	}
	return r, nil
}

// save writes what an evaluation has learnt, or a step has changed; the next
// evaluation is due after next.
func save(tx *sqldb.Tx, r rollout, next time.Duration, newEpoch, entered bool) error {
	memory, err := json.Marshal(r.memory)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE automation_rollouts SET state = $2, reason = $3, waiting = $4, epoch = $5, stage = $6, bake = $7, approved = $8,
			watched = $9, watch = {json $10}, flag_version = $11, seq = $12, looked_at = {now}, next_at = {in $13},
			began_at = CASE WHEN CAST($14 AS boolean) THEN {now} ELSE began_at END,
			entered_at = CASE WHEN CAST($15 AS boolean) THEN {now} ELSE entered_at END
		WHERE name = $1`,
		r.name, string(r.state), r.reason, r.waiting, r.epoch, r.stage, r.run, r.approved, r.watched.Seconds(), string(memory),
		r.flagVersion, r.seq, next.Seconds(), newEpoch, entered)
	return err
}

// applyStep carries a step out: it writes the flag, the rollout, one event, and
// the webhooks' messages.
func applyStep(tx *sqldb.Tx, from rollout, s step, evidence Evidence) (Event, error) {
	next := s.next
	if s.write != writeNothing {
		version, err := writeFlag(tx, s)
		if err != nil {
			return Event{}, err
		}
		next.flagVersion = version
	}
	next.seq++
	began := s.action == ActionStart || s.action == ActionRestart
	if err := save(tx, next, 0, began, began || next.run != from.run || next.state != from.state); err != nil {
		return Event{}, err
	}
	return insertEvent(tx, from, next, s, evidence)
}

// writeFlag makes the step's change of the flag, and returns its new version.
func writeFlag(tx *sqldb.Tx, s step) (version int64, _ error) {
	f, err := flagsql.Parsed(flagsql.Lock(tx, s.next.name, s.ifVersion))
	if err == nil {
		f, err = flagsql.Parsed(flagsql.Update(tx, s.next.name, s.change(f), actorOf(s.next.name), 0))
	}
	return f.Version, err
}

// insertEvent writes the event of a step, and puts it into the outbox.
func insertEvent(tx *sqldb.Tx, from, next rollout, s step, evidence Evidence) (Event, error) {
	stage := next.plan.Stages[next.stage]
	e := Event{
		Rollout: next.name, Seq: next.seq, Epoch: next.epoch, Stage: next.stage, StageName: stage.Name, Percentage: stage.Percentage,
		Action: s.action, From: from.state, To: next.state, Actor: s.actor, Detail: s.detail, Evidence: evidence,
	}
	figures, err := json.Marshal(evidence)
	if err != nil {
		return e, err
	}
	var at sqldb.Time
	if err := tx.Get(&at, `INSERT INTO automation_rollout_events
			(rollout, seq, epoch, stage, bake, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at)
		VALUES ($1, $2, $3, $4, $5, $6, CAST($7 AS numeric), $8, $9, $10, $11, $12, {json $13}, {now}) RETURNING at`,
		e.Rollout, e.Seq, e.Epoch, e.Stage, next.run, e.StageName, e.Percentage.String(), string(e.Action), string(e.From), string(e.To),
		e.Actor, e.Detail, string(figures)); err != nil {
		return e, err
	}
	e.At = at.Time
	return e, enqueue(tx, e)
}

// sumEvidence returns the evidence of one stage run, or of a whole stage or epoch.
func sumEvidence(tx *sqldb.Tx, where string, args ...any) (Evidence, error) {
	var rows []struct {
		Arm string `db:"arm"`
		Counts
	}
	err := tx.Select(&rows, `SELECT arm, CAST(sum(outcomes) AS bigint) AS outcomes, CAST(sum(failures) AS bigint) AS failures,
			CAST(sum(ignored) AS bigint) AS ignored, CAST(sum(slow) AS bigint) AS slow, CAST(sum(db_slow) AS bigint) AS db_slow,
			CAST(sum(latency_us) AS bigint) AS latency_us, CAST(sum(db_us) AS bigint) AS db_us
		FROM automation_rollout_counts WHERE `+where+` GROUP BY arm`, args...)
	var e Evidence
	for _, r := range rows {
		if r.Arm == ArmControl.String() {
			e.Control = r.Counts
		} else {
			e.Exposed = r.Counts
		}
	}
	return e, err
}

// writeCounts writes what a process has counted for one arm. The counts only
// grow and the greater wins, so a repeated or late write changes nothing.
func writeCounts(tx *sqldb.Tx, name, instanceID string, run stageRun, a Arm, n Counts) error {
	query := `INSERT INTO automation_rollout_counts AS c
			(rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, {now})
		ON CONFLICT (rollout, bake, incarnation, arm) DO UPDATE SET
			outcomes = GREATEST(c.outcomes, excluded.outcomes), failures = GREATEST(c.failures, excluded.failures),
			ignored = GREATEST(c.ignored, excluded.ignored), slow = GREATEST(c.slow, excluded.slow), db_slow = GREATEST(c.db_slow, excluded.db_slow),
			latency_us = GREATEST(c.latency_us, excluded.latency_us), db_us = GREATEST(c.db_us, excluded.db_us), updated_at = excluded.updated_at`
	if tx.SQLite() {
		query = strings.ReplaceAll(query, "GREATEST", "max")
	}
	_, err := tx.Exec(query, name, run.id, instanceID, a.String(), run.epoch, run.stage,
		n.Outcomes, n.Failures, n.Ignored, n.Slow, n.DatabaseSlow, n.LatencyUS, n.DatabaseUS)
	return err
}

// readFlagVersion returns the flag's version and who changed it last; version 0
// is no flag.
func readFlagVersion(tx *sqldb.Tx, name string) (version int64, by string, err error) {
	var f struct {
		Version int64  `db:"version"`
		By      string `db:"updated_by"`
	}
	_, err = sqldb.Optional(tx.Get(&f, `SELECT coalesce(version, -1) AS version, coalesce(updated_by, '') AS updated_by
		FROM feature_flags WHERE feature_name = $1`, name))
	return f.Version, f.By, err
}

// Event is one line of a rollout's history, and the body of a webhook.
type Event struct {
	Rollout    string           `json:"rollout"`
	Seq        int64            `json:"seq"` // 1 at first, without gaps
	Epoch      int              `json:"epoch"`
	Stage      int              `json:"stage"` // 0 is the first
	StageName  string           `json:"stage_name"`
	Percentage flags.Percentage `json:"percentage"` // the stage's
	Action     Action           `json:"action"`
	From       State            `json:"from"` // "" for a new rollout
	To         State            `json:"to"`
	Actor      string           `json:"actor"`
	Detail     string           `json:"detail"`   // for people
	Evidence   Evidence         `json:"evidence"` // of the stage run that it was about
	At         time.Time        `json:"at"`
}

const eventColumns = `rollout, seq, epoch, stage, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at`

type eventRow struct {
	Rollout    string     `db:"rollout"`
	Seq        int64      `db:"seq"`
	Epoch      int        `db:"epoch"`
	Stage      int        `db:"stage"`
	StageName  string     `db:"stage_name"`
	Percentage float64    `db:"percentage"`
	Action     string     `db:"action"`
	From       string     `db:"from_state"`
	To         string     `db:"to_state"`
	Actor      string     `db:"actor"`
	Detail     string     `db:"detail"`
	Evidence   string     `db:"evidence"`
	At         sqldb.Time `db:"at"`
}

func (r eventRow) event() (Event, error) {
	e := Event{
		Rollout: r.Rollout, Seq: r.Seq, Epoch: r.Epoch, Stage: r.Stage, StageName: r.StageName,
		Percentage: flags.Percentage(math.Round(r.Percentage * float64(flags.Percent))), Action: Action(r.Action),
		From: State(r.From), To: State(r.To), Actor: r.Actor, Detail: r.Detail, At: r.At.Time,
	}
	err := json.Unmarshal([]byte(r.Evidence), &e.Evidence)
	return e, err
}

// errDryRun rolls back the transaction of a dry run.
var errDryRun = errors.New("a dry run")
