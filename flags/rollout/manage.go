package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Order is what an operator wants done.
type Order struct {
	Action Action
	Actor  string // for the history; required, at most 200 bytes
	// DryRun returns the event that there would be and changes nothing.
	DryRun bool
}

// Create makes a rollout of the flag of that name, pending. In the place of one
// that is pending or has ended, it begins a new epoch with the new plan. The
// errors are PlanErrors, flags.ErrNotFound, ErrIllegal, and the database's.
func (c *Controller) Create(ctx context.Context, name string, p Plan, actor string) (Event, error) {
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
	e, err := sqldb.Write(ctx, c.db, "rollout.create", func(tx *sqldb.Tx) (Event, error) {
		version, _, err := flagNow(tx, name)
		if err == nil && version == 0 {
			err = flags.ErrNotFound
		}
		if err != nil {
			return Event{}, err
		}
		// Without the plan that is to be replaced, which may be a malformed one.
		var was struct {
			State string `db:"state"`
			Epoch int    `db:"epoch"`
			Bake  int64  `db:"bake"`
			Seq   int64  `db:"seq"`
		}
		found, err := sqldb.Optional(tx.Get(&was, `SELECT state, epoch, bake, seq FROM automation_rollouts WHERE name = $1 {lock}`, name))
		if err != nil {
			return Event{}, err
		}
		if !found {
			// Of an earlier rollout of that name whose row somebody deleted, the history goes on.
			if err := tx.Get(&was, `SELECT '' AS state, coalesce(max(epoch), 0) AS epoch, coalesce(max(bake), 0) AS bake, coalesce(max(seq), 0) AS seq
				FROM automation_rollout_events WHERE rollout = $1`, name); err != nil {
				return Event{}, err
			}
		}
		from := rollout{state: State(was.State)}
		next := rollout{name: name, plan: p, state: Pending, epoch: was.Epoch, bake: was.Bake, seq: was.Seq + 1}
		if found && from.state != Pending && !from.state.ended() {
			return Event{}, &IllegalError{Action: Created, State: from.state, Legal: Legal(from.state)}
		}
		if from.state != Pending {
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
		return record(tx, from, next, step{action: Created, actor: actor}, Evidence{})
	})
	if err != nil {
		return fail(err)
	}
	c.say(ctx, e)
	return e, nil
}

// Do carries out an operator's action and returns its event. The errors are
// ErrNotFound, ErrIllegal, ErrInvalid for the actor, ErrConflict where the flag
// was changed by hand and nobody has taken notice yet, and the database's.
func (c *Controller) Do(ctx context.Context, name string, o Order) (Event, error) {
	fail := func(err error) (Event, error) { return Event{}, fmt.Errorf("rollout: %s(%q): %w", o.Action, name, err) }
	if err := checkText("actor", o.Actor); err != nil {
		return fail(err)
	}
	var dry Event
	e, err := sqldb.Write(ctx, c.db, "rollout.do", func(tx *sqldb.Tx) (Event, error) {
		_, r, err := read(tx, name, `{lock}`)
		if err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return Event{}, err
		}
		s, err := r.do(o.Action, o.Actor)
		if err != nil {
			return Event{}, err
		}
		evidence, err := sumUp(tx, `rollout = $1 AND bake = $2`, name, r.bake)
		if err != nil {
			return Event{}, err
		}
		e, err := take(tx, *r, s, evidence)
		if err == nil && o.DryRun {
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
	c.say(ctx, e)
	return e, nil
}

// Preview tells what a look at a rollout would do now, and changes nothing;
// nil is nothing.
func (c *Controller) Preview(ctx context.Context, name string) (*Event, error) {
	var dry *Event
	_, err := sqldb.Write(ctx, c.db, "rollout.preview", func(tx *sqldb.Tx) (any, error) {
		w, r, err := read(tx, name, `{lock}`)
		if err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return nil, err
		}
		if dry = nil; r.watching() {
			if _, dry, err = c.look(tx, *w, *r); err != nil {
				return nil, err
			}
		}
		return nil, errDryRun
	})
	if errors.Is(err, errDryRun) {
		return dry, nil
	}
	return nil, fmt.Errorf("rollout: preview(%q): %w", name, err)
}

// Status is how a rollout stands.
type Status struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Reason  string `json:"reason"`  // ByOperator … where it is paused or ended
	Waiting string `json:"waiting"` // ForTime … where it is running
	Epoch   int    `json:"epoch"`
	Stage   int    `json:"stage"` // 0 is the first
	// StageName and Percentage are the stage's.
	StageName  string           `json:"stage_name"`
	Percentage flags.Percentage `json:"percentage"`
	Approved   bool             `json:"approved"`
	// WatchedSeconds of HoldSeconds have been watched in this stage.
	WatchedSeconds float64   `json:"watched_seconds"`
	HoldSeconds    float64   `json:"hold_seconds"`
	Evidence       Evidence  `json:"evidence"`     // of this stage, since it began
	FlagVersion    int64     `json:"flag_version"` // as the rollout left it
	Seq            int64     `json:"seq"`          // of the last event
	BeganAt        time.Time `json:"began_at"`     // the epoch
	EnteredAt      time.Time `json:"entered_at"`   // the stage, or the state
	LookedAt       time.Time `json:"looked_at"`
	Possible       []Action  `json:"possible"` // what an operator can do
	Plan           Plan      `json:"plan"`
}

func (r rollout) status(e Evidence) Status {
	stage := r.plan.Stages[r.stage]
	return Status{
		Name: r.name, State: r.state, Reason: r.reason, Waiting: r.waiting, Epoch: r.epoch, Stage: r.stage, StageName: stage.Name,
		Percentage: stage.Percentage, Approved: r.approved, WatchedSeconds: r.watched.Seconds(), HoldSeconds: stage.Hold.Seconds(),
		Evidence: e, FlagVersion: r.flagVersion, Seq: r.seq, BeganAt: r.beganAt, EnteredAt: r.enteredAt, LookedAt: r.lookedAt,
		Possible: Legal(r.state), Plan: r.plan,
	}
}

// Get tells how a rollout stands. The errors are ErrNotFound, a *RowError, and
// the database's.
func (c *Controller) Get(ctx context.Context, name string) (Status, error) {
	s, err := sqldb.Read(ctx, c.db, "rollout.get", func(tx *sqldb.Tx) (Status, error) {
		_, r, err := read(tx, name, "")
		if err == nil && r == nil {
			err = ErrNotFound
		}
		if err != nil {
			return Status{}, err
		}
		e, err := sumUp(tx, `rollout = $1 AND bake = $2`, name, r.bake)
		return r.status(e), err
	})
	if err != nil {
		return Status{}, fmt.Errorf("rollout: get(%q): %w", name, err)
	}
	return s, nil
}

// List tells how all rollouts stand, by name. One whose row cannot be read is
// missing, and in the error, beside which the others are good.
func (c *Controller) List(ctx context.Context) ([]Status, error) {
	names, err := sqldb.Read(ctx, c.db, "rollout.list", func(tx *sqldb.Tx) (names []string, err error) {
		return names, tx.Select(&names, `SELECT name FROM automation_rollouts WHERE name IS NOT NULL ORDER BY name`)
	})
	if err != nil {
		return nil, fmt.Errorf("rollout: list: %w", err)
	}
	var list []Status
	var errs []error
	for _, name := range names {
		if s, err := c.Get(ctx, name); err != nil {
			errs = append(errs, err)
		} else {
			list = append(list, s)
		}
	}
	return list, errors.Join(errs...)
}

// Events returns a rollout's history, the newest first: at most limit events
// (1 to 1,000; what is outside is taken for the nearest) with numbers below
// before; with 0, the newest there are.
func (c *Controller) Events(ctx context.Context, name string, limit int, before int64) ([]Event, error) {
	list, err := sqldb.Read(ctx, c.db, "rollout.events", func(tx *sqldb.Tx) ([]Event, error) {
		var rows []eventRow
		err := tx.Select(&rows, `SELECT `+eventColumns+` FROM automation_rollout_events
			WHERE rollout = $1 AND (CAST($2 AS bigint) = 0 OR seq < $2) ORDER BY seq DESC LIMIT $3`, name, before, min(max(limit, 1), 1000))
		list := make([]Event, len(rows))
		for i, r := range rows {
			e, bad := r.event()
			list[i], err = e, errors.Join(err, bad)
		}
		return list, err
	})
	if err != nil {
		return nil, fmt.Errorf("rollout: events(%q): %w", name, err)
	}
	return list, nil
}

// checkText checks a name or an actor. A name's actor must fit the flag's audit.
func checkText(field, s string) error {
	const most = 200
	if s == "" || len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return &PlanError{field, fmt.Sprintf("1 to %d bytes of UTF-8 without control characters are wanted", most)}
	}
	return nil
}
