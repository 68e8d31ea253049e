package adminapi

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// Sessions ends sessions and shows a user's; *session.Manager does.
type Sessions interface {
	List(ctx context.Context, userID string) ([]session.Info, error)
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
	list, next, err := a.ListSessions(c.R.Context(), fleet.SessionFilter{UserID: q.Get("user"), State: q.Get("state"), Before: cursor, Limit: limit})
	if err != nil {
		return databaseProblem(c.W, err)
	}
	answers := make([]sessionRecord, len(list))
	for i, s := range list {
		answers[i] = sessionRecord{s.ID, s.RowID, s.UserID, a.ModelName(s.ModelID), s.State, s.Reason, s.Provider, s.LastError, s.CreatedAt, s.OpenedAt, s.EndsAt}
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"sessions": answers, "next": next})
}

// endSession ends a session and writes into the audit who did. Where the second
// fails, both can be repeated.
func (a *api) endSession(c *httpapi.Call, actor string) error {
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
	ctx := context.WithoutCancel(c.R.Context()) // what was done is recorded, whether or not the operator waits
	if err := a.RecordAction(ctx, flagsql.ActionEndSession, actor, map[string]any{"session_id": id}); err != nil {
		httpapi.RetryAfter(c.W, retrySoon)
		return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
			"The session is to end, but the audit does not have it: end it again.").WithCause(err))
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]string{"id": string(id), "state": "ending"})
}
