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

// maxPlanBody bounds a body with a rollout's plan, in bytes.
const maxPlanBody = 8 << 20

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
	limit, before, err := parsePage(c.R.URL.Query())
	if err != nil {
		return err
	}
	events, err := a.Rollouts.Events(c.R.Context(), c.R.PathValue("name"), limit, before)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"events": append([]rollout.Event{}, events...)})
}

// startRollout creates a rollout by the given plan or the deployment's, and
// starts it. If no plan is given, a pending rollout is started with its own.
func (a *api) startRollout(c *httpapi.Call, actor string) error {
	var body struct {
		Plan *rollout.Plan `json:"plan"`
	}
	if err := decodeOptional(c.R, &body); err != nil {
		return err
	}
	name := c.R.PathValue("name")
	current, err := a.Rollouts.Get(c.R.Context(), name)
	if err != nil && !errors.Is(err, rollout.ErrNotFound) {
		return rolloutProblem(c.W, err)
	}
	isPending := err == nil && current.State == rollout.StatePending
	if body.Plan != nil || !isPending {
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
		dryRun, err := decodeDryRun(c)
		if err != nil {
			return err
		}
		return a.execute(c, rollout.Command{Action: action, Actor: actor, DryRun: dryRun})
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

// rolloutProblem converts an error of the rollouts' store into the answer.
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

// postCleanup makes one pass of the clean-up, or in a dry run says what it would
// remove. The audit is written first, because a pass may be interrupted.
func (a *api) postCleanup(c *httpapi.Call, actor string) error {
	dryRun, err := decodeDryRun(c)
	if err != nil {
		return err
	}
	if !dryRun {
		if err := a.RecordAction(c.R.Context(), flagsql.ActionCleanup, actor, map[string]any{"cleanup": "begun"}); err != nil {
			return databaseProblem(c.W, err)
		}
	}
	report, err := a.Cleanup(c.R.Context(), dryRun)
	if err != nil {
		return flagProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, report)
}

// maxReportSpan bounds ?since= of getReport.
const maxReportSpan = 366 * 24 * time.Hour

// getReport measures the deployment plan's criteria of success, and reviews the
// last week or the time of ?since=.
func (a *api) getReport(c *httpapi.Call, _ string) error {
	q := c.R.URL.Query()
	var since time.Duration
	if s := q.Get("since"); s != "" {
		var err error
		if since, err = time.ParseDuration(s); err != nil || since <= 0 || since > maxReportSpan {
			return problem.Invalid(problem.FieldError{Field: "since", Message: "must be a duration such as 168h, of at most a year"})
		}
	}
	var openBugs *int
	if s := q.Get("open_bugs"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return problem.Invalid(problem.FieldError{Field: "open_bugs", Message: "must be the number of open P0 and P1 bugs"})
		}
		openBugs = &n
	}
	report, err := a.Report(c.R.Context(), openBugs, since)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, report)
}

// maxSeriesSpan bounds ?since= of getSeries. The clean-up keeps the evidence
// longer.
const maxSeriesSpan = 30 * 24 * time.Hour

// getSeries answers with a rollout's evidence over time, for charts. ?since= is
// a duration, by default 24h.
func (a *api) getSeries(c *httpapi.Call, _ string) error {
	span := 24 * time.Hour
	if s := c.R.URL.Query().Get("since"); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil || span < time.Minute || span > maxSeriesSpan {
			return problem.Invalid(problem.FieldError{Field: "since", Message: "must be a duration from 1m to 720h"})
		}
	}
	points, err := a.Rollouts.Series(c.R.Context(), c.R.PathValue("name"), span)
	if err != nil {
		return rolloutProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"points": append([]rollout.Point{}, points...)})
}
