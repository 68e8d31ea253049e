package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Store has the operators' actions on rollouts, and their views. It needs no
// running Controller.
type Store struct {
	db  *sqldb.DB
	log *slog.Logger
}

// NewStore returns a store on the host's pool, for a program without a controller.
func NewStore(pool *sqlx.DB) *Store {
	return &Store{db: sqldb.New(pool, sqldb.Options{MaxConns: 4}), log: slog.New(slog.DiscardHandler)}
}

// Command is an operator's action.
type Command struct {
	Action Action
	Actor  string // for the history; required, at most 200 bytes
	// DryRun makes Execute return the event and change nothing.
	DryRun bool
}

// Create creates a pending rollout of the flag of that name. If its last rollout
// has ended, a new epoch begins with the new plan; if it is pending, the new plan
// replaces the old one. The errors are ErrInvalid, flags.ErrNotFound, ErrIllegal,
// and the database's.
func (s *Store) Create(ctx context.Context, name string, p Plan, actor string) (Event, error) {
	fail := func(err error) (Event, error) { return Event{}, fmt.Errorf("rollout: create(%q): %w", name, err) }
	p = p.withDefaults()
	if err := errors.Join(checkText("name", name), checkText("actor", actor), p.Validate()); err != nil {
		return fail(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		return fail(err)
	}
	if len(text) > maxPlan {
		return fail(new(Plan).UnmarshalJSON(text))
	}
	e, err := sqldb.Write(ctx, s.db, "rollout.create", func(tx *sqldb.Tx) (Event, error) {
		f, err := readFlagHead(tx, name)
		if err == nil && f.Version == 0 {
			err = flags.ErrNotFound
		}
		if err != nil {
			return Event{}, err
		}
		last, found, err := readLast(tx, name)
		if err != nil {
			return Event{}, err
		}
		from := rollout{state: State(last.State)}
		next := rollout{name: name, plan: p, state: StatePending, epoch: last.Epoch, run: last.Run, seq: last.Seq + 1}
		if found && from.state != StatePending && !from.state.hasEnded() {
			return Event{}, &IllegalError{Action: actionCreate, State: from.state, Allowed: allowedActions(from.state)}
		}
		if from.state != StatePending {
			next.epoch++
		}
		if found {
			_, err = tx.Exec(`UPDATE automation_rollouts SET plan = {json $2} WHERE name = $1`, name, string(text))
		} else {
			_, err = tx.Exec(`INSERT INTO automation_rollouts (name, plan, state, epoch, stage, bake, seq, began_at, entered_at, looked_at, next_at)
				VALUES ($1, {json $2}, 'pending', 1, 0, 0, 0, {now}, {now}, {now}, {now})`, name, string(text))
		}
		if err != nil {
			return Event{}, err
		}
		if err := save(tx, next, 0, true, true); err != nil {
			return Event{}, err
		}
		return insertEvent(tx, from, next, step{action: actionCreate, actor: actor}, Evidence{})
	})
	if err != nil {
		return fail(err)
	}
	logEvent(ctx, s.log, e)
	return e, nil
}

// lastRollout is the rollout that another one replaces. Its plan may be malformed,
// and is not read.
type lastRollout struct {
	State string `db:"state"`
	Epoch int    `db:"epoch"`
	Run   int64  `db:"bake"`
	Seq   int64  `db:"seq"`
}

// readLast locks and returns the last rollout of a flag. If there is none, it takes
// the numbers from the events, which remain after somebody has deleted a row.
func readLast(tx *sqldb.Tx, name string) (last lastRollout, found bool, err error) {
	found, err = sqldb.Optional(tx.Get(&last, `SELECT state, epoch, bake, seq FROM automation_rollouts WHERE name = $1 {lock}`, name))
	if err == nil && !found {
		err = tx.Get(&last, `SELECT '' AS state, coalesce(max(epoch), 0) AS epoch, coalesce(max(bake), 0) AS bake, coalesce(max(seq), 0) AS seq
			FROM automation_rollout_events WHERE rollout = $1`, name)
	}
	return last, found, err
}

// Execute carries out an operator's command and returns its event. The errors
// are ErrNotFound, ErrIllegal, ErrInvalid for the actor, flags.ErrConflict if the
// flag was changed by hand since the last evaluation, and the database's.
func (s *Store) Execute(ctx context.Context, name string, cmd Command) (Event, error) {
	fail := func(err error) (Event, error) {
		return Event{}, fmt.Errorf("rollout: %s(%q): %w", cmd.Action, name, err)
	}
	if err := checkText("actor", cmd.Actor); err != nil {
		return fail(err)
	}
	var dry Event
	e, err := sqldb.Write(ctx, s.db, "rollout.execute", func(tx *sqldb.Tx) (Event, error) {
		_, r, err := readRollout(tx, name, `{lock}`)
		if err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return Event{}, err
		}
		f, err := readFlagHead(tx, name)
		if err != nil {
			return Event{}, err
		}
		if r.flagVersion != 0 && f.Version != r.flagVersion && r.isUsersOnly(f) {
			*r = r.adopt(f)
		}
		next, err := r.execute(cmd.Action, cmd.Actor)
		if err != nil {
			return Event{}, err
		}
		evidence, err := sumEvidence(tx, name, r.run)
		if err != nil {
			return Event{}, err
		}
		e, err := applyStep(tx, *r, next, evidence)
		if err == nil && cmd.DryRun {
			dry, err = e, errDryRun
		}
		return e, err
	})
	if errors.Is(err, errDryRun) {
		return dry, nil
	}
	if err != nil {
		return fail(err)
	}
	logEvent(ctx, s.log, e)
	return e, nil
}

// HandEditEffect describes, for whoever has just changed a flag by hand, how the
// flag's rollout reacts to the change. It is "" if there was no such change, or if
// no rollout is running or paused.
func (s *Store) HandEditEffect(ctx context.Context, name string) (string, error) {
	effect, err := sqldb.Read(ctx, s.db, "rollout.hand_edit_effect", func(tx *sqldb.Tx) (string, error) {
		_, r, err := readRollout(tx, name, "")
		if err != nil || r == nil {
			return "", err
		}
		if r.state != StateRunning && r.state != StatePaused {
			return "", nil
		}
		f, err := readFlagHead(tx, name)
		if err != nil {
			return "", err
		}
		if r.reason != reasonHandEdit {
			switch {
			case f.Version == r.flagVersion:
				return "", nil
			case r.isUsersOnly(f):
				return fmt.Sprintf("The rollout of %q continues with this change.", name), nil
			}
		}
		return fmt.Sprintf("The rollout of %q pauses: %s. Resuming it sets the flag to its stage again.", name, r.editDetail(f)), nil
	})
	if err != nil {
		return "", fmt.Errorf("rollout: hand edit effect(%q): %w", name, err)
	}
	return effect, nil
}

// Status is the state of a rollout.
type Status struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Reason is why it is paused or has ended: operator, breach or hand_edit.
	Reason string `json:"reason"`
	// Waiting is what a running stage waits for: time (its hold), samples (there is
	// too little traffic), approval, outage (the feature is not the cause of what
	// fails), users (too few fail for a rollback) or breach (the plan says notify).
	Waiting string `json:"waiting"`
	Detail  string `json:"detail"` // why it waits, is paused or has ended, as a text for people
	Epoch   int    `json:"epoch"`
	Stage   int    `json:"stage"` // 0 is the first
	// StageName and Percentage are the stage's.
	StageName  string           `json:"stage_name"`
	Percentage flags.Percentage `json:"percentage"`
	Approved   bool             `json:"approved"`
	// WatchedSeconds is how much of the stage's HoldSeconds has passed under watch.
	WatchedSeconds float64   `json:"watched_seconds"`
	HoldSeconds    float64   `json:"hold_seconds"`
	Evidence       Evidence  `json:"evidence"`     // of this stage, since it began
	FlagVersion    int64     `json:"flag_version"` // that the rollout last wrote or adopted
	Seq            int64     `json:"seq"`          // of the last event
	BeganAt        time.Time `json:"began_at"`     // when the epoch began
	EnteredAt      time.Time `json:"entered_at"`   // when it entered the stage, or the state
	LookedAt       time.Time `json:"looked_at"`    // the latest evaluation
	Possible       []Action  `json:"possible"`     // the operators' actions in this state
	Plan           Plan      `json:"plan"`
}

func (r rollout) status(e Evidence) Status {
	stage := r.plan.Stages[r.stage]
	return Status{
		Name: r.name, State: r.state, Reason: r.reason, Waiting: r.waiting, Detail: r.memory.Detail, Epoch: r.epoch, Stage: r.stage, StageName: stage.Name,
		Percentage: stage.Percentage, Approved: r.approved, WatchedSeconds: r.watched.Seconds(), HoldSeconds: stage.Hold.Seconds(),
		Evidence: e, FlagVersion: r.flagVersion, Seq: r.seq, BeganAt: r.beganAt, EnteredAt: r.enteredAt, LookedAt: r.lookedAt,
		Possible: allowedActions(r.state), Plan: r.plan,
	}
}

// Summary has the fields of flags/rollout.Status, which is converted from it. That
// type repeats them because `go doc` shows none of an internal type.
type Summary struct {
	Name, State, Reason, Waiting, Detail string
	Stage                                int
	StageName                            string
	Percentage                           flags.Percentage
	Watched, Hold                        time.Duration
	LookedAt                             time.Time
	ExposedOutcomes, ExposedFailures     int64
	ControlOutcomes, ControlFailures     int64
}

// Summary returns what hosts see of the status.
func (s Status) Summary() Summary {
	return Summary{
		Name: s.Name, State: string(s.State), Reason: s.Reason, Waiting: s.Waiting, Detail: s.Detail, Stage: s.Stage, StageName: s.StageName,
		Percentage: s.Percentage, Watched: seconds(s.WatchedSeconds), Hold: seconds(s.HoldSeconds), LookedAt: s.LookedAt,
		ExposedOutcomes: s.Evidence.Exposed.Outcomes, ExposedFailures: s.Evidence.Exposed.Failures,
		ControlOutcomes: s.Evidence.Control.Outcomes, ControlFailures: s.Evidence.Control.Failures,
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Get returns the status of a rollout. The errors are ErrNotFound, a *RowError,
// and the database's.
func (s *Store) Get(ctx context.Context, name string) (Status, error) {
	status, err := sqldb.Read(ctx, s.db, "rollout.get", func(tx *sqldb.Tx) (Status, error) {
		_, r, err := readRollout(tx, name, "")
		if err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return Status{}, err
		}
		e, err := sumEvidence(tx, name, r.run)
		return r.status(e), err
	})
	if err != nil {
		return Status{}, fmt.Errorf("rollout: get(%q): %w", name, err)
	}
	return status, nil
}

// List returns the status of all rollouts, sorted by name. If the row of a rollout
// cannot be read, the error names it, and the list has the others.
func (s *Store) List(ctx context.Context) ([]Status, error) {
	names, err := sqldb.Read(ctx, s.db, "rollout.list", func(tx *sqldb.Tx) (names []string, err error) {
		return names, tx.Select(&names, `SELECT name FROM automation_rollouts WHERE name IS NOT NULL ORDER BY name`)
	})
	if err != nil {
		return nil, fmt.Errorf("rollout: list: %w", err)
	}
	var list []Status
	var errs []error
	for _, name := range names {
		if status, err := s.Get(ctx, name); err != nil {
			errs = append(errs, err)
		} else {
			list = append(list, status)
		}
	}
	return list, errors.Join(errs...)
}

// Events returns a rollout's history, the newest first: at most limit events whose
// Seq is below before. A limit is raised to 1 or lowered to 1,000; a before of 0
// begins with the newest event.
func (s *Store) Events(ctx context.Context, name string, limit int, before int64) ([]Event, error) {
	list, err := sqldb.Read(ctx, s.db, "rollout.events", func(tx *sqldb.Tx) ([]Event, error) {
		var rows []eventRow
		err := tx.Select(&rows, `SELECT `+eventColumns+` FROM automation_rollout_events
			WHERE rollout = $1 AND (CAST($2 AS bigint) = 0 OR seq < $2) ORDER BY seq DESC LIMIT $3`, name, before, min(max(limit, 1), 1000))
		list := make([]Event, len(rows))
		for i, r := range rows {
			list[i] = r.event()
		}
		return list, err
	})
	if err != nil {
		return nil, fmt.Errorf("rollout: events(%q): %w", name, err)
	}
	return list, nil
}

// checkText checks a name or an actor. After "rollout:", a name also is an actor in
// the flag's audit.
func checkText(field, s string) error {
	const maxBytes = 200
	if s == "" || len(s) > maxBytes || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return &planError{field, fmt.Sprintf("expected 1 to %d bytes of UTF-8 without control characters", maxBytes)}
	}
	return nil
}
