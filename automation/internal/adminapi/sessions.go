package adminapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// Sessions ends sessions and lists a user's. *session.Manager implements it.
type Sessions interface {
	List(ctx context.Context, userID string) ([]session.Info, error)
	EndAny(ctx context.Context, id session.ID) error
	Usage(ctx context.Context, userID string) (session.Usage, error)
}

// listSessions answers with the sessions of all users, newest first, filtered
// by ?user= and ?state=. ?before= is the "next" of the page before.
func (a *api) listSessions(c *httpapi.Call, _ string) error {
	q := c.R.URL.Query()
	cursor := q.Get("before")
	q.Del("before") // parsePage accepts only a number
	limit, _, err := parsePage(q)
	if err != nil {
		return err
	}
	list, next, err := a.ListSessions(c.R.Context(), fleet.SessionFilter{UserID: q.Get("user"), State: q.Get("state"), Before: cursor, Limit: limit})
	if err != nil {
		return databaseProblem(c.W, err)
	}
	for i, s := range list {
		list[i].Model = a.ModelName(s.ModelID)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"sessions": append([]fleet.Session{}, list...), "next": next})
}

// endSession ends a session and writes to the audit who did so. If writing fails,
// the operator can repeat the request.
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
	ctx := context.WithoutCancel(c.R.Context()) // the audit needs the entry even if the operator has left
	if err := a.RecordAction(ctx, flagsql.ActionEndSession, actor, map[string]any{"session_id": id}); err != nil {
		httpapi.RetryAfter(c.W, httpapi.RetrySoon)
		return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
			"The session will end, but the audit could not be written: send the request again.").WithCause(err))
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]string{"id": string(id), "state": "ending"})
}
