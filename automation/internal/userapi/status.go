package userapi

import (
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

type statusAnswer struct {
	Enabled bool `json:"enabled"` // whether a chat request gets a session by itself
	// Reason is why not: off (for everybody), not_in_rollout, opted_out; or on.
	Reason string `json:"reason"`
	Notice string `json:"notice"` // the operators' word, or empty
	// Budget is what the user's limits leave; null for who does not have the
	// feature, and while it cannot be read.
	Budget *httpapi.Budget `json:"budget"`
}

// budget reads what the user's limits leave. That it cannot be read at the
// moment is no reason to withhold the rest of the status.
func (a *api) budget(c *httpapi.Call) *httpapi.Budget {
	used, err := a.Sessions.Usage(c.R.Context(), c.User.ID)
	if err != nil {
		a.Logger.WarnContext(c.R.Context(), "budget not read", "error", err)
		return nil
	}
	return httpapi.NewBudget(used, a.Now())
}

// getStatus answers also while the flag is off.
func (a *api) getStatus(c *httpapi.Call) error {
	if err := a.authenticate(c); err != nil {
		return err
	}
	if err := a.flagUnknown(c); err != nil {
		return err
	}
	answer := statusAnswer{Reason: "off"}
	f := a.Flag()
	if f != nil {
		answer.Notice = f.Notice
	}
	switch {
	case !a.Enabled || f == nil || !f.Enabled:
	case !a.Decide(c.User.ID).On:
		answer.Reason = "not_in_rollout"
	default:
		s, err := a.Settings.GetCached(c.R.Context(), c.User.ID)
		if err != nil {
			return storeProblem(c.W, err)
		}
		answer.Enabled, answer.Reason = s.IsEnabled, "on"
		if !s.IsEnabled {
			answer.Reason = "opted_out"
		}
		answer.Budget = a.budget(c)
	}
	return problem.WriteJSON(c.W, http.StatusOK, answer)
}
