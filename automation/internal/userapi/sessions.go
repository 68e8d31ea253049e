package userapi

import (
	"errors"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

type sessionAnswer struct {
	ID       string    `json:"id"`
	Model    string    `json:"model"` // its name, or its id if it no longer has a name
	ModelID  string    `json:"model_id"`
	State    string    `json:"state"` // idle, in_use, ending
	OpenedAt time.Time `json:"opened_at"`
	EndsAt   time.Time `json:"ends_at"`
}

func (a *api) sessionAnswer(s session.Info) sessionAnswer {
	return sessionAnswer{ID: s.SessionID, Model: a.ModelName(s.ModelID), ModelID: s.ModelID, State: httpapi.SessionState(s), OpenedAt: s.OpenedAt, EndsAt: s.EndsAt}
}

func (a *api) getSessions(c *httpapi.Call) error {
	list, err := a.Sessions.List(c.R.Context(), c.User.ID)
	if err != nil {
		return storeProblem(c.W, err)
	}
	answers := make([]sessionAnswer, len(list))
	for i, s := range list {
		answers[i] = a.sessionAnswer(s)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"sessions": answers})
}

func (a *api) deleteSession(c *httpapi.Call) error {
	notFound := problem.New(http.StatusNotFound, "You have no open session of that id.")
	id, err := session.ParseID(c.R.PathValue("id"))
	if err != nil {
		return notFound.WithCause(err)
	}
	s, err := a.Sessions.End(c.R.Context(), c.User.ID, id)
	if errors.Is(err, session.ErrUnmanaged) {
		return notFound
	}
	if err != nil {
		return storeProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, a.sessionAnswer(s))
}
