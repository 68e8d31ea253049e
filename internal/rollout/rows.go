package rollout

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// row is a row of automation_rollouts, whose JSON is not parsed.
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
	LookedIn    float64    `db:"looked_in"` // seconds from now until looked_at, so below 0
	DueIn       float64    `db:"due_in"`    // seconds from now until next_at
}

const columns = `name, plan, state, reason, waiting, epoch, stage, bake, approved, watched, watch, flag_version, seq,
	began_at, entered_at, looked_at, {until looked_at} AS looked_in, {until next_at} AS due_in`

// readRollout reads a rollout, or returns nil if there is none. The suffix is the
// end of the query, with further conditions and the lock. The error for a row that
// cannot be read is a *RowError.
func readRollout(tx *sqldb.Tx, name, suffix string) (*row, *rollout, error) {
	var w row
	found, err := sqldb.Optional(tx.Get(&w, `SELECT `+columns+` FROM automation_rollouts WHERE name = $1 `+suffix, name))
	if err != nil && strings.Contains(err.Error(), "Scan error") { // database/sql has no type for this error
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

// rollout parses the row, and checks what the table's constraints would ensure.
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
		return nil, fmt.Errorf("state: %.40q is unknown", w.State)
	}
	if r.stage < 0 || r.stage >= len(r.plan.Stages) {
		return nil, fmt.Errorf("stage: there is no %d, the plan has %d stages from 0 on", r.stage, len(r.plan.Stages))
	}
	return r, nil
}

// save writes a rollout after an evaluation or a step. Its next evaluation is due
// after dueIn. began says that an epoch has begun, entered that the rollout has
// entered a stage or another state.
func save(tx *sqldb.Tx, r rollout, dueIn time.Duration, began, entered bool) error {
	memory, err := json.Marshal(r.memory)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE automation_rollouts SET state = $2, reason = $3, waiting = $4, epoch = $5, stage = $6, bake = $7, approved = $8,
			watched = $9, watch = {json $10}, flag_version = $11, seq = $12, looked_at = {now}, next_at = {in $13},
			began_at = CASE WHEN CAST($14 AS boolean) THEN {now} ELSE began_at END,
			entered_at = CASE WHEN CAST($15 AS boolean) THEN {now} ELSE entered_at END,
			watched_until = CASE WHEN CAST($16 AS boolean) THEN {in $17} ELSE watched_until END
		WHERE name = $1`,
		r.name, string(r.state), r.reason, r.waiting, r.epoch, r.stage, r.run, r.approved, r.watched.Seconds(), string(memory),
		r.flagVersion, r.seq, dueIn.Seconds(), began, entered, entered && r.state == StateCompleted, r.plan.Stages[r.stage].Hold.Seconds())
	return err
}

// applyStep writes what a step changes: the flag, the rollout, one event, and the
// webhooks' messages.
func applyStep(tx *sqldb.Tx, from rollout, s step, evidence Evidence) (Event, error) {
	next := s.next
	if s.write != writeNothing {
		f, err := writeFlag(tx, s)
		if err != nil {
			return Event{}, err
		}
		next.flagVersion, next.memory.FlagSeed = f.Version, &f.Seed
	}
	next.seq++
	began := s.action == ActionStart || s.action == ActionRestart
	entered := began || next.run != from.run || next.state != from.state
	if err := save(tx, next, 0, began, entered); err != nil {
		return Event{}, err
	}
	return insertEvent(tx, from, next, s, evidence)
}

// writeFlag changes the flag as the step says, and returns the changed flag.
func writeFlag(tx *sqldb.Tx, s step) (flagsql.Flag, error) {
	f, err := flagsql.Parsed(flagsql.Lock(tx, s.next.name, s.ifVersion))
	if err != nil {
		return f, err
	}
	return flagsql.Parsed(flagsql.Update(tx, s.next.name, s.change(f), actorOf(s.next.name), 0))
}

// insertEvent writes the event of a step, and puts it into the outbox.
func insertEvent(tx *sqldb.Tx, from, next rollout, s step, evidence Evidence) (Event, error) {
	stage := next.plan.Stages[next.stage]
	e := Event{
		Rollout: next.name, Seq: next.seq, Epoch: next.epoch, Stage: next.stage, StageName: stage.Name, Percentage: stage.Percentage,
		Action: s.action, From: from.state, To: next.state, Actor: s.actor, Detail: s.detail, Evidence: evidence,
	}
	text, err := json.Marshal(evidence)
	if err != nil {
		return e, err
	}
	if err := tx.Get(&e.At, `INSERT INTO automation_rollout_events
			(rollout, seq, epoch, stage, bake, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at)
		VALUES ($1, $2, $3, $4, $5, $6, CAST($7 AS numeric), $8, $9, $10, $11, $12, {json $13}, {now}) RETURNING at`,
		e.Rollout, e.Seq, e.Epoch, e.Stage, next.run, e.StageName, e.Percentage.String(), string(e.Action), string(e.From), string(e.To),
		e.Actor, e.Detail, string(text)); err != nil {
		return e, err
	}
	return e, enqueue(tx, e)
}

// sumEvidence returns the evidence of one stage run, from all replicas.
func sumEvidence(tx *sqldb.Tx, name string, run int64) (Evidence, error) {
	var rows []struct {
		Arm string `db:"arm"`
		Counts
	}
	sums := make([]string, len(countColumns))
	for i, column := range countColumns {
		sums[i] = fmt.Sprintf("CAST(sum(%s) AS bigint) AS %s", column, column)
	}
	err := tx.Select(&rows, `SELECT arm, `+strings.Join(sums, ", ")+` FROM automation_rollout_counts WHERE rollout = $1 AND bake = $2 GROUP BY arm`, name, run)
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

// countColumns are the columns of Counts in automation_rollout_counts.
var countColumns = []string{"outcomes", "failures", "provider_failures", "slow", "db_slow", "latency_us", "db_us", "shared_failures", "ignored"}

// writeCounts writes what a process has counted for one arm. If add is set, n is
// added to the row. Otherwise n has the totals so far, which only grow: the row
// keeps the greater values, so that a repeated or late write changes nothing.
func writeCounts(tx *sqldb.Tx, name, instanceID string, run stageRun, a Arm, n Counts, add bool) error {
	greatest := "GREATEST"
	if tx.SQLite() {
		greatest = "max"
	}
	values, sets := make([]string, len(countColumns)), make([]string, len(countColumns))
	for i, column := range countColumns {
		values[i] = fmt.Sprintf("$%d", i+7)
		sets[i] = fmt.Sprintf("%s = %s(c.%s, excluded.%s)", column, greatest, column, column)
		if add {
			sets[i] = fmt.Sprintf("%s = c.%s + excluded.%s", column, column, column)
		}
	}
	_, err := tx.Exec(`INSERT INTO automation_rollout_counts AS c (rollout, bake, incarnation, arm, epoch, stage, `+strings.Join(countColumns, ", ")+`, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, `+strings.Join(values, ", ")+`, {now})
		ON CONFLICT (rollout, bake, incarnation, arm) DO UPDATE SET `+strings.Join(sets, ", ")+`, updated_at = excluded.updated_at`,
		name, run.id, instanceID, a.String(), run.epoch, run.stage,
		n.Outcomes, n.Failures, n.ProviderFailures, n.Slow, n.DatabaseSlow, n.LatencyUS, n.DatabaseUS, n.SharedFailures, n.Ignored)
	return err
}

// countUsers returns how many different users of a stage run had failures of the
// given kinds since a time.
func countUsers(tx *sqldb.Tx, name string, run int64, kinds []failureKind, since time.Time) (n int64, _ error) {
	list := make([]string, len(kinds))
	for i, kind := range kinds {
		list[i] = "'" + kind.String() + "'"
	}
	return n, tx.Get(&n, `SELECT count(DISTINCT user_hash) FROM automation_rollout_failures
		WHERE rollout = $1 AND stage_run = $2 AND kind IN (`+strings.Join(list, ", ")+`) AND minute >= {unix $3}`, name, run, since.Unix()/60*60)
}

// saveMinute saves the evidence of this minute, from which Series takes its points.
func saveMinute(tx *sqldb.Tx, r rollout, now time.Time, e Evidence) error {
	minute := now.Truncate(time.Minute)
	users, err := countUsers(tx, r.name, r.run, []failureKind{kindFailure, kindProvider}, minute.Add(-time.Minute))
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO automation_rollout_minutes (rollout, minute, stage_run, evidence, failing_users)
		VALUES ($1, {unix $2}, $3, {json $4}, $5) ON CONFLICT (rollout, minute) DO UPDATE SET
			stage_run = excluded.stage_run, evidence = excluded.evidence, failing_users = excluded.failing_users`,
		r.name, minute.Unix(), r.run, string(text), users)
	return err
}

// flagHead has the columns of a flag that a rollout compares. Version 0 means that
// there is no such flag.
type flagHead struct {
	Version    int64   `db:"version"`
	By         string  `db:"updated_by"`
	Enabled    bool    `db:"enabled"`
	Percentage float64 `db:"rollout_percentage"` // per cent
	Seed       string  `db:"seed"`
}

func (f flagHead) percentage() flags.Percentage { return toPercentage(f.Percentage) }

// toPercentage converts a column's number of per cents.
func toPercentage(percent float64) flags.Percentage {
	return flags.Percentage(math.Round(percent * float64(flags.Percent)))
}

func readFlagHead(tx *sqldb.Tx, name string) (f flagHead, err error) {
	_, err = sqldb.Optional(tx.Get(&f, `SELECT coalesce(version, -1) AS version, coalesce(updated_by, '') AS updated_by, coalesce(enabled, false) AS enabled,
			coalesce(rollout_percentage, -1) AS rollout_percentage, coalesce(seed, '') AS seed
		FROM feature_flags WHERE feature_name = $1`, name))
	return f, err
}

// Event is one line of a rollout's history, and the body of a webhook.
type Event struct {
	Rollout    string           `json:"rollout" db:"rollout"`
	Seq        int64            `json:"seq" db:"seq"` // counts the rollout's events from 1, without gaps
	Epoch      int              `json:"epoch" db:"epoch"`
	Stage      int              `json:"stage" db:"stage"` // 0 is the first
	StageName  string           `json:"stage_name" db:"stage_name"`
	Percentage flags.Percentage `json:"percentage" db:"-"` // the stage's
	Action     Action           `json:"action" db:"action"`
	From       State            `json:"from" db:"from_state"` // "" for a new rollout
	To         State            `json:"to" db:"to_state"`
	Actor      string           `json:"actor" db:"actor"`
	Detail     string           `json:"detail" db:"detail"` // for people
	Evidence   Evidence         `json:"evidence" db:"-"`    // of the stage run in which it happened
	At         sqldb.Time       `json:"at" db:"at"`
}

const eventColumns = `rollout, seq, epoch, stage, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at`

type eventRow struct {
	Event
	Percentage float64              `db:"percentage"` // per cent
	Evidence   sqldb.JSON[Evidence] `db:"evidence"`
}

func (r eventRow) event() Event {
	e := r.Event
	e.Percentage, e.Evidence = toPercentage(r.Percentage), r.Evidence.V
	return e
}

// errDryRun rolls back the transaction of a dry run.
var errDryRun = errors.New("a dry run")
