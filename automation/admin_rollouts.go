package automation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// maxPlan is the most bytes of a rollout's plan.
const maxPlan = 8 << 20

func (m *Module) adminRollouts(route adminRoute) {
	route("GET /rollouts", func(w http.ResponseWriter, r *http.Request, _ string) error {
		list, err := m.rollouts.List(r.Context())
		if err != nil && list == nil {
			return rolloutProblem(w, err)
		}
		answer := map[string]any{"rollouts": append([]rollout.Status{}, list...)}
		if err != nil {
			answer["malformed"] = err.Error()
		}
		return problem.WriteJSON(w, http.StatusOK, answer)
	})
	route("GET /rollouts/{name}", func(w http.ResponseWriter, r *http.Request, _ string) error {
		s, err := m.rollouts.Get(r.Context(), r.PathValue("name"))
		if err != nil {
			return rolloutProblem(w, err)
		}
		return problem.WriteJSON(w, http.StatusOK, s)
	})
	route("GET /rollouts/{name}/events", func(w http.ResponseWriter, r *http.Request, _ string) error {
		limit, before, err := page(r.URL.Query())
		if err != nil {
			return err
		}
		events, err := m.rollouts.Events(r.Context(), r.PathValue("name"), limit, before)
		if err != nil {
			return rolloutProblem(w, err)
		}
		return problem.WriteJSON(w, http.StatusOK, map[string]any{"events": append([]rollout.Event{}, events...)})
	})
	route("POST /rollouts/{name}", m.startRollout)
	for _, action := range []rollout.Action{rollout.Pause, rollout.Resume, rollout.Approve, rollout.Skip, rollout.Abort, rollout.Promote, rollout.Restart} {
		route("POST /rollouts/{name}/"+string(action), func(w http.ResponseWriter, r *http.Request, actor string) error {
			var body struct {
				DryRun *bool `json:"dry_run"`
			}
			if err := decodeOptional(r, &body); err != nil {
				return err
			}
			dry := body.DryRun != nil && *body.DryRun
			return m.order(w, r, rollout.Order{Action: action, Actor: actor, DryRun: dry})
		})
	}
}

// startRollout makes a rollout, by the plan that is given or the deployment's,
// and starts it; one that is pending is started as it is where none is given.
func (m *Module) startRollout(w http.ResponseWriter, r *http.Request, actor string) error {
	var body struct {
		Plan *rollout.Plan `json:"plan"`
	}
	if err := decodeOptional(r, &body); err != nil {
		return err
	}
	name := r.PathValue("name")
	now, err := m.rollouts.Get(r.Context(), name)
	if err != nil && !errors.Is(err, rollout.ErrNotFound) {
		return rolloutProblem(w, err)
	}
	if body.Plan != nil || err != nil || now.State != rollout.Pending {
		plan := rollout.DefaultPlan()
		if body.Plan != nil {
			plan = *body.Plan
		}
		if _, err := m.rollouts.Create(r.Context(), name, plan, actor); err != nil {
			return rolloutProblem(w, err)
		}
	}
	return m.order(w, r, rollout.Order{Action: rollout.Start, Actor: actor})
}

// order carries out an action and answers with its event.
func (m *Module) order(w http.ResponseWriter, r *http.Request, o rollout.Order) error {
	event, err := m.rollouts.Do(r.Context(), r.PathValue("name"), o)
	if err != nil {
		return rolloutProblem(w, err)
	}
	m.flags.Trigger()
	return problem.WriteJSON(w, http.StatusOK, event)
}

// decodeOptional takes a body that need not be there.
func decodeOptional(r *http.Request, dst any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return problem.Decode(r, maxPlan, dst)
}

// rolloutProblem tells an operator what the controller's error means.
func rolloutProblem(w http.ResponseWriter, err error) error {
	if illegal, ok := errors.AsType[*rollout.IllegalError](err); ok {
		return problem.New(http.StatusConflict, illegal.Error()+".").Because(err)
	}
	switch {
	case errors.Is(err, flags.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no flag of that name.")
	case errors.Is(err, rollout.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no rollout of that name.")
	case errors.Is(err, rollout.ErrConflict):
		return problem.New(http.StatusConflict, "The flag was just changed by hand: look at it first.").Because(err)
	case errors.Is(err, rollout.ErrInvalid):
		return problem.New(http.StatusBadRequest, err.Error())
	}
	if row, ok := errors.AsType[*rollout.RowError](err); ok {
		return problem.New(http.StatusConflict, "The rollout's row is malformed: "+row.Err.Error()+". Mend it with SQL.").Because(err)
	}
	return flagProblem(w, err)
}

// adminJobs are what operators do by hand, and the plan's success measured.
func (m *Module) adminJobs(route adminRoute) {
	route("POST /cleanup", func(w http.ResponseWriter, r *http.Request, _ string) error {
		var body struct {
			DryRun *bool `json:"dry_run"`
		}
		if err := decodeOptional(r, &body); err != nil {
			return err
		}
		report, err := m.Cleanup(r.Context(), body.DryRun != nil && *body.DryRun)
		if err != nil {
			return flagProblem(w, err)
		}
		return problem.WriteJSON(w, http.StatusOK, report)
	})
	route("GET /report", func(w http.ResponseWriter, r *http.Request, _ string) error {
		var bugs *int
		if text := r.URL.Query().Get("open_bugs"); text != "" {
			n, err := strconv.Atoi(text)
			if err != nil || n < 0 {
				return problem.Invalid(problem.FieldError{Field: "open_bugs", Message: "must be a number of open P0 and P1 bugs"})
			}
			bugs = &n
		}
		report, err := m.Report(r.Context(), bugs)
		if err != nil {
			return rolloutProblem(w, err)
		}
		return problem.WriteJSON(w, http.StatusOK, report)
	})
}

// Report measures the deployment plan's criteria of success. Open P0 and P1
// bugs are what the operator states; nil is not stated. Adoption needs to know
// how many users could have the feature: Options.Users.
func (m *Module) Report(ctx context.Context, openBugs *int) (rollout.Report, error) {
	goals := rollout.Goals{OpenBugs: openBugs}
	if m.users != nil {
		goals.Adopters = func(ctx context.Context, _, _ time.Time) (adopters, users int, err error) {
			enabled, _, err := m.stored.Adopters(ctx)
			if err != nil {
				return 0, 0, err
			}
			users, err = m.users(ctx)
			return int(enabled), users, err
		}
	}
	report, err := m.rollouts.Report(ctx, FlagName, goals)
	if err != nil {
		return report, fmt.Errorf("automation: report: %w", err)
	}
	return report, nil
}
