package adminapi

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// maxPlan is the most bytes of a rollout's plan.
const maxPlan = 8 << 20

func (a *api) listRollouts(c *httpapi.Call, _ string) error {
	list, err := a.Rollouts.List(c.R.Context())
	if err != nil && list == nil {
		return rolloutProblem(c.W, err)
	}
	answer := map[string]any{"rollouts": append([]rollout.Status{}, list...)}
	if err != nil {
		answer["malformed"] = err.Error()
	}
	return problem.WriteJSON(c.W, http.StatusOK, answer)
}

func (a *api) getRollout(c *httpapi.Call, _ string) error {
	s, err := a.Rollouts.Get(c.R.Context(), c.R.PathValue("name"))
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, s)
}

func (a *api) listRolloutEvents(c *httpapi.Call, _ string) error {
	limit, before, err := page(c.R.URL.Query())
	if err != nil {
		return err
	}
	events, err := a.Rollouts.Events(c.R.Context(), c.R.PathValue("name"), limit, before)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"events": append([]rollout.Event{}, events...)})
}

// startRollout makes a rollout, by the plan that is given or the deployment's,
// and starts it; one that is pending is started as it is where none is given.
func (a *api) startRollout(c *httpapi.Call, actor string) error {
	var body struct {
		Plan *rollout.Plan `json:"plan"`
	}
	if err := decodeOptional(c.R, &body); err != nil {
		return err
	}
	name := c.R.PathValue("name")
	now, err := a.Rollouts.Get(c.R.Context(), name)
	if err != nil && !errors.Is(err, rollout.ErrNotFound) {
		return rolloutProblem(c.W, err)
	}
	if body.Plan != nil || err != nil || now.State != rollout.StatePending {
		plan := rollout.DefaultPlan()
		if body.Plan != nil {
			plan = *body.Plan
		}
		if _, err := a.Rollouts.Create(c.R.Context(), name, plan, actor); err != nil {
			return rolloutProblem(c.W, err)
		}
	}
	return a.execute(c, rollout.Command{Action: rollout.ActionStart, Actor: actor})
}

func (a *api) commandRollout(action rollout.Action) handler {
	return func(c *httpapi.Call, actor string) error {
		dry, err := decodeDryRun(c)
		if err != nil {
			return err
		}
		return a.execute(c, rollout.Command{Action: action, Actor: actor, DryRun: dry})
	}
}

// execute carries out a command and answers with its event.
func (a *api) execute(c *httpapi.Call, cmd rollout.Command) error {
	event, err := a.Rollouts.Execute(c.R.Context(), c.R.PathValue("name"), cmd)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	a.Refresh()
	return problem.WriteJSON(c.W, http.StatusOK, event)
}

func decodeDryRun(c *httpapi.Call) (bool, error) {
	var body struct {
		DryRun *bool `json:"dry_run"`
	}
	if err := decodeOptional(c.R, &body); err != nil {
		return false, err
	}
	return body.DryRun != nil && *body.DryRun, nil
}

// rolloutProblem is what the controller's error means to an operator.
func rolloutProblem(w http.ResponseWriter, err error) error {
	if illegal, ok := errors.AsType[*rollout.IllegalError](err); ok {
		return problem.New(http.StatusConflict, illegal.Error()+".").WithCause(err)
	}
	switch {
	case errors.Is(err, flags.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no flag of that name.")
	case errors.Is(err, rollout.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no rollout of that name.")
	case errors.Is(err, flags.ErrConflict):
		return problem.New(http.StatusConflict, "The flag was just changed by hand: look at it first.").WithCause(err)
	case errors.Is(err, rollout.ErrInvalid):
		return problem.New(http.StatusBadRequest, err.Error())
	}
	if row, ok := errors.AsType[*rollout.RowError](err); ok {
		return malformedRow("rollout", row.Err, err)
	}
	return flagProblem(w, err)
}

// postCleanup makes one pass of the clean-up, or says what it would remove. The
// audit has it before anything is removed: a pass may be cut off.
func (a *api) postCleanup(c *httpapi.Call, actor string) error {
	dry, err := decodeDryRun(c)
	if err != nil {
		return err
	}
	if !dry {
		if err := a.RecordAction(c.R.Context(), flagsql.ActionCleanup, actor, map[string]any{"cleanup": "begun"}); err != nil {
			return databaseProblem(c.W, err)
		}
	}
	report, err := a.Cleanup(c.R.Context(), dry)
	if err != nil {
		return flagProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, report)
}

// maxReviewed is the longest span that a report reviews.
const maxReviewed = 366 * 24 * time.Hour

// getReport measures the deployment plan's criteria of success, and reviews the
// last week or the span that is asked for.
func (a *api) getReport(c *httpapi.Call, _ string) error {
	var since time.Duration
	if text := c.R.URL.Query().Get("since"); text != "" {
		var err error
		if since, err = time.ParseDuration(text); err != nil || since <= 0 || since > maxReviewed {
			return problem.Invalid(problem.FieldError{Field: "since", Message: "must be a span of at most a year such as 168h"})
		}
	}
	var bugs *int
	if text := c.R.URL.Query().Get("open_bugs"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return problem.Invalid(problem.FieldError{Field: "open_bugs", Message: "must be a number of open P0 and P1 bugs"})
		}
		bugs = &n
	}
	report, err := a.Report(c.R.Context(), bugs, since)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, report)
}

// maxSpan bounds ?since=: what the clean-up keeps is longer.
const maxSpan = 30 * 24 * time.Hour

// getSeries answers with a rollout's evidence over time, for charts: ?since= is
// a duration such as 24h, the default.
func (a *api) getSeries(c *httpapi.Call, _ string) error {
	span := 24 * time.Hour
	if s := c.R.URL.Query().Get("since"); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil || span < time.Minute || span > maxSpan {
			return problem.Invalid(problem.FieldError{Field: "since", Message: "must be a duration from 1m to 720h"})
		}
	}
	points, err := a.Rollouts.Series(c.R.Context(), c.R.PathValue("name"), span)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"points": append([]rollout.Point{}, points...)})
}
