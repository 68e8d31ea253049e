// Package adminapi is the operators' HTTP API: flags, rollouts, sessions,
// feedback, the clean-up and the report. No GET changes anything, and the audit
// records who changed what.
package adminapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// Deps are what the API works with. All are required.
type Deps struct {
	BasePath string // such as /admin/automation
	// Authorize returns the name of the operator who makes a request, for the
	// audit. An error is answered with 401.
	Authorize func(*http.Request) (actor string, err error)
	// Explain explains a decision as this process makes it. The Flag of the
	// explanation is empty if there is no such flag.
	Explain  func(name, userID string) flags.Explanation
	Store    FlagStore
	Audit    Audit
	Rollouts Rollouts
	// Refresh makes this process read the flags soon.
	Refresh func()
	Cleanup func(ctx context.Context, dryRun bool) (cleanup.Report, error)
	// RecordAction writes an operator's action to the audit, other than a change of
	// a flag or a rollout: those write their own entries.
	RecordAction func(ctx context.Context, a flagsql.Action, actor string, after map[string]any) error
	// Report measures the criteria of success and reviews the time since, or the
	// last week if since is 0. openBugs is nil if it is not known.
	Report   func(ctx context.Context, openBugs *int, since time.Duration) (report.Report, error)
	Overview func(ctx context.Context) (Overview, error)
	// Failures returns what lately failed for a user, the latest first.
	Failures func(ctx context.Context, userID string) ([]fleet.Failure, error)
	Feedback Feedback
	Settings UserSettings
	Sessions Sessions
	// ListSessions lists the sessions of all users.
	ListSessions func(ctx context.Context, f fleet.SessionFilter) (page []fleet.Session, next string, err error)
	Models       Models
	// ModelName returns the name of the model with an id, or the id if it has none.
	ModelName func(id string) string
	// Record is called once for each request, when it has ended.
	Record func(context.Context, outcome.Outcome)
	Now    func() time.Time
}

// FlagStore reads and changes flags. *flags.Store implements it.
type FlagStore interface {
	Load(ctx context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error)
	Get(ctx context.Context, name string) (*flags.Flag, error)
	Update(ctx context.Context, name string, c flags.Change, actor string, ifVersion int64) (*flags.Flag, error)
}

// Audit reads who changed a flag. flagsql.Audit implements it.
type Audit interface {
	Events(ctx context.Context, name string, limit int, before int64) ([]flagsql.Event, error)
}

// Rollouts reads and commands rollouts. *rollout.Store implements it.
type Rollouts interface {
	List(ctx context.Context) ([]rollout.Status, error)
	Get(ctx context.Context, name string) (rollout.Status, error)
	Events(ctx context.Context, name string, limit int, before int64) ([]rollout.Event, error)
	Series(ctx context.Context, name string, span time.Duration) ([]rollout.Point, error)
	Create(ctx context.Context, name string, p rollout.Plan, actor string) (rollout.Event, error)
	Execute(ctx context.Context, name string, c rollout.Command) (rollout.Event, error)
	HandEditEffect(ctx context.Context, name string) (string, error)
}

type api struct{ Deps }

// New makes the API's handler, for BasePath + "/".
func New(d Deps) http.Handler {
	a := &api{d}
	mux := httpapi.NewMux(d.Record, d.Now)
	for pattern, serve := range a.routes() {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" "+d.BasePath+path, func(c *httpapi.Call) error {
			actor, err := d.Authorize(c.R)
			if limited, ok := errors.AsType[*guessLimitError](err); ok {
				httpapi.RetryAfter(c.W, limited.retry)
				return httpapi.Fail(outcome.Limit, problem.New(http.StatusTooManyRequests, "Too many wrong tokens; wait a little.").WithCause(err))
			}
			if err != nil {
				c.W.Header().Set("WWW-Authenticate", identity.Challenge)
				return httpapi.Fail(outcome.Client, problem.New(http.StatusUnauthorized, "Send the operators' token as a bearer token.").WithCause(err))
			}
			return serve(c, withComment(actor, c.R))
		})
	}
	return mux
}

// handler serves a route for an operator. actor is for the audit.
type handler func(c *httpapi.Call, actor string) error

// headerComment holds the operator's reason, percent-encoded.
const headerComment = "X-Automation-Comment"

// withComment adds the operator's reason to their name, so that the audit has
// both.
func withComment(actor string, r *http.Request) string {
	comment, err := url.QueryUnescape(r.Header.Get(headerComment))
	comment = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, comment))
	if err != nil || comment == "" {
		return actor
	}
	return actor + " (" + text.Truncate(comment, 200) + ")"
}

func (a *api) routes() map[string]handler {
	routes := map[string]handler{
		"GET /flags":                   a.listFlags,
		"GET /flags/{name}":            a.getFlag,
		"PATCH /flags/{name}":          a.patchFlag,
		"GET /flags/{name}/users/{id}": a.explainFlag,
		"GET /flags/{name}/events":     a.listFlagEvents,
		"GET /rollouts":                a.listRollouts,
		"GET /rollouts/{name}":         a.getRollout,
		"GET /rollouts/{name}/events":  a.listRolloutEvents,
		"GET /rollouts/{name}/series":  a.getSeries,
		"POST /rollouts/{name}":        a.startRollout,
		"POST /cleanup":                a.postCleanup,
		"GET /report":                  a.getReport,
		"GET /overview":                a.getOverview,
		"GET /users/{id}":              a.getUser,
		"GET /sessions":                a.listSessions,
		"DELETE /sessions/{id}":        a.endSession,
		"GET /models":                  a.listModels,
		"GET /models/resolve":          a.resolveModel,
		"GET /feedback":                a.listFeedback,
		"POST /feedback/{id}/done":     a.markFeedbackDone,
	}
	for _, action := range []rollout.Action{rollout.ActionPause, rollout.ActionResume, rollout.ActionApprove, rollout.ActionSkip, rollout.ActionAbort, rollout.ActionPromote, rollout.ActionRestart} {
		routes["POST /rollouts/{name}/"+string(action)] = a.commandRollout(action)
	}
	return routes
}

// Routes lists the API's routes below a base path, as "METHOD /path".
func Routes(basePath string) []string {
	var list []string
	for pattern := range (&api{}).routes() {
		method, path, _ := strings.Cut(pattern, " ")
		list = append(list, method+" "+basePath+path)
	}
	return list
}

// databaseProblem converts an error of the database into a 503. It returns any
// other error as it is.
func databaseProblem(w http.ResponseWriter, err error) error {
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		httpapi.RetryAfter(w, time.Second)
		return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
			"It is not known whether the change was made: read the current state to find out.").WithCause(err))
	case errors.Is(err, sqldb.ErrUnavailable):
		httpapi.RetryAfter(w, httpapi.RetrySoon)
		return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
			"The database cannot be reached; nothing was changed.").WithCause(err))
	}
	return err
}

// NotFound is the handler while there is no token: it answers every request with
// 404.
func NotFound() http.Handler { return problem.Routes(http.NewServeMux()) }

// parsePage parses ?limit= (1 to 1,000; by default 100) and ?before= (an id; by
// default 0).
func parsePage(q url.Values) (limit int, before int64, err error) {
	limit = 100
	var invalid []problem.FieldError
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > 1000 {
			invalid = append(invalid, problem.FieldError{Field: "limit", Message: "must be from 1 to 1000"})
		}
	}
	if s := q.Get("before"); s != "" {
		if before, err = strconv.ParseInt(s, 10, 64); err != nil || before < 1 {
			invalid = append(invalid, problem.FieldError{Field: "before", Message: "must be the id of an entry"})
		}
	}
	if len(invalid) > 0 {
		return 0, 0, problem.Invalid(invalid...)
	}
	return limit, before, nil
}

// decodeOptional decodes a body if there is one.
func decodeOptional(r *http.Request, dst any) error {
	if r.ContentLength == 0 {
		return nil
	}
	return problem.Decode(r, maxPlanBody, dst)
}
