package adminapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// Sessions lists and ends sessions; *session.Manager does.
type Sessions interface {
	List(ctx context.Context, userID string) ([]session.Info, error)
	ListAll(ctx context.Context, f session.Filter) (page []session.Record, next string, err error)
	EndAny(ctx context.Context, id session.ID) error
	Usage(ctx context.Context, userID string) (session.Usage, error)
}

type sessionRecord struct {
	ID        session.ID `json:"id"` // empty until it is known
	RowID     string     `json:"row_id"`
	UserID    string     `json:"user_id"`
	Model     string     `json:"model"`
	State     string     `json:"state"`
	Reason    string     `json:"reason"`
	Provider  string     `json:"provider"`
	LastError string     `json:"last_error"`
	CreatedAt time.Time  `json:"created_at"`
	OpenedAt  time.Time  `json:"opened_at,omitzero"`
	EndsAt    time.Time  `json:"ends_at,omitzero"`
}

// listSessions answers with the sessions of all users, newest first, filtered
// by ?user= and ?state=; ?before= is the cursor that "next" gave.
func (a *api) listSessions(c *httpapi.Call, _ string) error {
	q := c.R.URL.Query()
	cursor := q.Get("before")
	q.Del("before") // page knows numbers alone
	limit, _, err := page(q)
	if err != nil {
		return err
	}
	list, next, err := a.Sessions.ListAll(c.R.Context(), session.Filter{UserID: q.Get("user"), State: q.Get("state"), Before: cursor, Limit: limit})
	if err != nil {
		return databaseProblem(c.W, err)
	}
	answers := make([]sessionRecord, len(list))
	for i, s := range list {
		answers[i] = sessionRecord{s.ID, s.RowID, s.UserID, a.ModelName(s.ModelID), s.State, s.Reason, s.Provider, s.LastError, s.CreatedAt, s.OpenedAt, s.EndsAt}
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"sessions": answers, "next": next})
}

func (a *api) endSession(c *httpapi.Call, _ string) error {
	notFound := problem.New(http.StatusNotFound, "There is no open session of that id.")
	id, err := session.ParseID(c.R.PathValue("id"))
	if err != nil {
		return notFound.WithCause(err)
	}
	switch err := a.Sessions.EndAny(c.R.Context(), id); {
	case errors.Is(err, session.ErrUnmanaged):
		return notFound
	case err != nil:
		return databaseProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]string{"id": string(id), "state": "ending"})
}
