// Package report measures the rollout of a flag by the deployment plan's
// criteria of success, and reviews the feature's use and failures over a period.
//
// The rollout's controller records its stages. Where people carry out a rollout
// in SQL instead, the flag's audit shows when each stage began, and
// automation_activity how its requests ended. Sessions and settings show who
// uses the feature.
package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Maker makes reports. It only reads the database.
type Maker struct {
	db       *sqldb.DB
	flags    *flags.Store
	rollouts *rollout.Store
	feedback *feedback.Store
}

// New returns a Maker on the host's pool.
func New(pool *sqlx.DB, rollouts *rollout.Store, o sqldb.Options) *Maker {
	return &Maker{sqldb.New(pool, o), flags.NewStore(pool, flags.StoreOptions{MaxConns: o.MaxConns, Observe: o.Observe}), rollouts, feedback.NewStore(pool, o)}
}

// Options are the inputs that the database does not have.
type Options struct {
	Flag string // the flag's name
	// Users returns how many users could have the feature; nil: unknown.
	Users func(context.Context) (int, error)
	// OpenBugs is the number of open P0 and P1 bugs; nil: unknown.
	OpenBugs *int
	// Since is the length of the period that is reviewed; 0 means 7 days.
	Since time.Duration
	// Retention is how long ended sessions are kept; 0 means 30 days.
	Retention time.Duration
}

// Report is a rollout's criteria and a review.
type Report struct {
	Rollout  string           `json:"rollout"` // the flag's name
	ByHand   bool             `json:"by_hand"` // people carry it out, not a controller
	State    rollout.State    `json:"state"`
	Detail   string           `json:"detail"` // why it waits, is paused or was rolled back, as a text
	Epoch    int              `json:"epoch"`  // the controller's; 0 if ByHand
	At       time.Time        `json:"at"`
	BeganAt  time.Time        `json:"began_at,omitzero"`
	Verdict  Verdict          `json:"verdict"` // met if all are, not_met if one is not, otherwise open
	Criteria []Criterion      `json:"criteria"`
	Evidence rollout.Evidence `json:"evidence"` // the counts from which the rates are computed
	// Steps are the changes of who has the feature, since the rollout began.
	Steps []Step `json:"steps"`
	// TakenBack is the last change by which users lost the feature; nil if there
	// was none, or if as many users have it again.
	TakenBack *TakenBack `json:"taken_back"`
	Review    Review     `json:"review"`
}

// TakenBack is a change by which users lost the feature, with the counts of the
// stage before it.
type TakenBack struct {
	At     time.Time `json:"at"`
	By     string    `json:"by"`
	Detail string    `json:"detail"`
	Stage  string    `json:"stage"` // in which it happened
	Since  time.Time `json:"since"` // when that stage began
	// Evidence has that stage's counts, and Activity how its requests ended, in
	// whole periods of ten minutes.
	Evidence rollout.Counts     `json:"evidence"`
	Activity []replica.Activity `json:"activity"`
}

// measured has what the criteria need of a rollout, by hand or by a controller.
type measured struct {
	Report
	plan     rollout.Plan  // for its limits of times
	isFull   bool          // everybody has the feature
	fullTime time.Duration // for how long, or for how much of that a controller has watched
	isOff    bool          // the feature was taken from everybody
}

// Make measures the rollout of a flag and reviews the last period. Its errors
// are flags.ErrNotFound, a *rollout.RowError, and the database's.
func (m *Maker) Make(ctx context.Context, o Options) (Report, error) {
	fail := func(err error) (Report, error) { return Report{}, fmt.Errorf("report: %q: %w", o.Flag, err) }
	r, err := m.measure(ctx, o)
	if err != nil {
		return fail(err)
	}
	o.Since, o.Retention = cmp.Or(o.Since, week), cmp.Or(o.Retention, 30*24*time.Hour)
	if r.Review, err = m.review(ctx, r.At.Add(-o.Since), r.At); err != nil {
		return fail(err)
	}
	if r.Criteria, err = m.criteria(ctx, r, o); err != nil {
		return fail(err)
	}
	r.Verdict = VerdictMet
	for _, c := range r.Criteria {
		if c.Verdict == VerdictNotMet || c.Verdict == VerdictOpen && r.Verdict == VerdictMet {
			r.Verdict = c.Verdict
		}
	}
	return r.Report, nil
}

// measure reads the rollout's state.
func (m *Maker) measure(ctx context.Context, o Options) (measured, error) {
	now, steps, err := m.steps(ctx, o.Flag)
	if err != nil {
		return measured{}, err
	}
	r := measured{Report: Report{Rollout: o.Flag, At: now, Steps: []Step{}}, plan: rollout.DefaultPlan()}
	status, err := m.rollouts.Get(ctx, o.Flag)
	if err != nil && !errors.Is(err, rollout.ErrNotFound) {
		return r, err
	}
	if err != nil || isByHand(status, steps) {
		return r, m.measureByHand(ctx, &r, steps)
	}
	return r, m.measureController(ctx, &r, status, steps)
}

// isByHand reports whether the controller's rollout no longer explains who has
// the feature: it has not begun or has ended, and somebody changed the flag.
func isByHand(s rollout.Status, steps []Step) bool {
	last := Step{}
	if len(steps) > 0 {
		last = steps[len(steps)-1]
	}
	switch s.State {
	case rollout.StatePending, rollout.StateRolledBack, rollout.StateAborted:
		return last.exposure() > 0
	case rollout.StateCompleted:
		return last.exposure() != everybody
	case rollout.StateRunning, rollout.StatePaused:
	}
	return false
}

// measureController measures a rollout that a controller carries out.
func (m *Maker) measureController(ctx context.Context, r *measured, s rollout.Status, steps []Step) error {
	r.State, r.Detail, r.Epoch, r.plan, r.Evidence = s.State, s.Detail, s.Epoch, s.Plan, s.Evidence
	if s.State == rollout.StatePending {
		r.Evidence = rollout.Evidence{}
		return nil
	}
	r.BeganAt = s.BeganAt
	first := len(steps)
	if i := slices.IndexFunc(steps, func(step Step) bool { return !step.At.Before(s.BeganAt) }); i >= 0 {
		first = i
	}
	// The transaction that starts a rollout changes the flag before it sets BeganAt.
	// Therefore the rollout's first step is usually the last one before BeganAt.
	if first > 0 && steps[first-1].By == "rollout:"+r.Rollout && steps[first-1].exposure() > 0 {
		first--
	}
	r.Steps = append(r.Steps, steps[first:]...)
	if s.Stage == len(s.Plan.Stages)-1 && s.Percentage == 100*flags.Percent {
		r.isFull, r.fullTime = true, time.Duration(s.WatchedSeconds*float64(time.Second))
	} else if s.State == rollout.StateRunning || s.State == rollout.StatePaused {
		r.Evidence = rollout.Evidence{} // the criteria are about the last stage, not an earlier one
	}
	r.isOff = s.State == rollout.StateRolledBack || s.State == rollout.StateAborted
	events, err := m.rollouts.Events(ctx, r.Rollout, 1000, 0)
	if err != nil {
		return err
	}
	for i, e := range events { // the newest first
		if e.Epoch != s.Epoch || e.Action == rollout.ActionResume || e.Action == rollout.ActionRestart {
			break
		}
		if !isTakenBack(e) {
			continue
		}
		before := events[min(i+1, len(events)-1)]
		back := &TakenBack{At: e.At.Time, By: e.Actor, Detail: e.Detail, Stage: before.StageName, Since: before.At.Time, Evidence: e.Evidence.Exposed}
		if back.Activity, err = m.activity(ctx, before.At.Time, e.At.Time); err != nil {
			return err
		}
		r.TakenBack = back
		break
	}
	return nil
}

// isTakenBack reports whether users lost the feature by an event.
func isTakenBack(e rollout.Event) bool {
	switch e.Action {
	case "rollback", "step_back", rollout.ActionAbort:
		return e.From != rollout.StatePending
	}
	return false
}

// measureByHand measures a rollout that people carry out in SQL, by command or
// by API. Each change of who has the feature begins a stage.
func (m *Maker) measureByHand(ctx context.Context, r *measured, steps []Step) error {
	r.ByHand, r.State = true, rollout.StatePending
	start := rolloutStart(steps)
	if start < 0 {
		return nil
	}
	r.Steps = steps[start:]
	last := r.Steps[len(r.Steps)-1]
	stage, end := last, r.At
	r.BeganAt, r.State, r.isOff = r.Steps[0].At, rollout.StateRunning, last.exposure() == 0
	if last.exposure() == everybody {
		r.isFull, r.fullTime = true, r.At.Sub(stage.At)
	}
	if r.fullTime >= fullFor {
		r.State = rollout.StateCompleted
	}
	if i := takenBackAt(r.Steps); i > 0 {
		lost := r.Steps[i]
		before := r.Steps[i-1]
		back := &TakenBack{At: lost.At, By: lost.By, Detail: lost.Notice, Stage: before.String(), Since: before.At}
		var err error
		if back.Activity, err = m.activity(ctx, before.At, lost.At); err != nil {
			return err
		}
		back.Evidence = counts(back.Activity)
		r.TakenBack, r.Detail = back, lost.Notice
		if r.isOff {
			r.State, stage, end = rollout.StateRolledBack, before, lost.At
		}
	}
	list, err := m.activity(ctx, stage.At, end)
	r.Evidence.Exposed = counts(list)
	return err
}
