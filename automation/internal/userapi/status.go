package userapi

import (
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

type statusAnswer struct {
	Enabled bool `json:"enabled"` // whether a chat request without a session_id gets a session
	// Reason is on, or why not: off (for everybody), not_in_rollout or opted_out.
	Reason string `json:"reason"`
	Notice string `json:"notice"` // the operators' message to users; may be empty
	// Budget is what the user's limits still allow. It is null if the user does
	// not have the feature, and while it cannot be read.
	Budget *httpapi.Budget `json:"budget"`
}

// readBudget reads what the user's limits still allow. An error is only logged,
// so that the user gets the rest of the status.
func (a *api) readBudget(c *httpapi.Call) *httpapi.Budget {
	used, err := a.Sessions.Usage(c.R.Context(), c.User.ID)
	if err != nil {
		a.Logger.WarnContext(c.R.Context(), "budget not read", "error", err)
		return nil
	}
	return httpapi.NewBudget(used, a.Now())
}

// getStatus answers even while the flag is off.
func (a *api) getStatus(c *httpapi.Call) error {
	if err := a.authenticate(c); err != nil {
		return err
	}
	if err := a.requireFlags(c); err != nil {
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
		answer.Budget = a.readBudget(c)
	}
	return problem.WriteJSON(c.W, http.StatusOK, answer)
}
