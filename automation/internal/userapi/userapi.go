// Package userapi is the users' HTTP API: settings, sessions, status and
// feedback. Users see and change only their own.
package userapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Deps are what the API works with. All but Changed are required.
type Deps struct {
	BasePath string // such as /api/v1/automation
	FlagName string
	Enabled  bool // the process's master switch
	Identify identity.Func
	Flag     func() *flags.Flag // returns nil while there is no such flag
	Decide   func(userID string) flags.Decision
	// FlagsLoaded reports whether the flags have been read. Until then Decide
	// decides that nobody has the feature.
	FlagsLoaded func() bool
	Settings    Settings
	Sessions    Sessions
	Feedback    Feedback
	// ModelName returns the name of the model with an id, or the id if it has none.
	ModelName func(id string) string
	// MinDuration and MaxDuration bound a session's duration.
	MinDuration, MaxDuration time.Duration
	// Changed, unless nil, is called after a user has changed their settings.
	Changed func(before, after settings.Settings)
	// Record is called once for each request, when it has ended.
	Record func(context.Context, outcome.Outcome)
	Logger *slog.Logger
	Now    func() time.Time
}

// Settings reads and changes settings. *settings.Store implements it.
type Settings interface {
	GetCached(ctx context.Context, userID string) (settings.Settings, error)
	Get(ctx context.Context, userID string) (settings.Settings, error)
	Put(ctx context.Context, userID string, v settings.Values, c settings.Condition) (settings.Settings, error)
	Patch(ctx context.Context, userID string, ch settings.Change, c settings.Condition) (settings.Settings, error)
	Delete(ctx context.Context, userID string, c settings.Condition) (settings.Settings, error)
}

// Sessions lists and ends a user's sessions. *session.Manager implements it.
type Sessions interface {
	List(ctx context.Context, userID string) ([]session.Info, error)
	Usage(ctx context.Context, userID string) (session.Usage, error)
	End(ctx context.Context, userID string, id session.ID) (session.Info, error)
}

// api is the handler of all routes.
type api struct {
	Deps
	changes, feedback *limiter
}

// New makes the API's handler, for BasePath + "/".
func New(d Deps) http.Handler {
	a := &api{Deps: d, changes: newLimiter(changeBurst, changeInterval), feedback: newLimiter(feedbackBurst, feedbackInterval)}
	mux := httpapi.NewMux(d.Record, d.Now)
	for _, r := range routes {
		serve := func(c *httpapi.Call) error { return r.serve(a, c) }
		if r.access != accessAny {
			serve = a.requireFeature(r.access, serve)
		}
		mux.Handle(r.method+" "+d.BasePath+r.path, serve)
	}
	return mux
}

// access says which users may use a route.
type access int

const (
	accessAny   access = iota // the route decides by itself
	accessRead                // users who have the feature
	accessWrite               // users who have the feature and may write
)

var routes = []struct {
	method, path string // the path below BasePath
	access       access
	serve        func(*api, *httpapi.Call) error
}{
	{http.MethodGet, "/settings", accessRead, (*api).getSettings},
	{http.MethodPut, "/settings", accessWrite, (*api).putSettings},
	{http.MethodPost, "/settings", accessWrite, (*api).putSettings},
	{http.MethodPatch, "/settings", accessWrite, (*api).patchSettings},
	{http.MethodDelete, "/settings", accessWrite, (*api).deleteSettings},
	{http.MethodGet, "/sessions", accessRead, (*api).getSessions},
	{http.MethodDelete, "/sessions/{id}", accessWrite, (*api).deleteSession},
	{http.MethodGet, "/status", accessAny, (*api).getStatus},
	{http.MethodPost, "/feedback", accessAny, (*api).postFeedback},
}

// Routes lists the API's routes below a base path, as "METHOD /path".
func Routes(basePath string) []string {
	var list []string
	for _, r := range routes {
		list = append(list, r.method+" "+basePath+r.path)
	}
	return list
}

// requireFeature wraps serve so that only users with that access reach it.
func (a *api) requireFeature(access access, serve func(*httpapi.Call) error) func(*httpapi.Call) error {
	return func(c *httpapi.Call) error {
		if err := a.requireFlags(c); err != nil {
			return err
		}
		if f := a.Flag(); !a.Enabled || f == nil || !f.Enabled {
			return httpapi.Fail(outcome.Off, notAvailable)
		}
		if err := a.authenticate(c); err != nil {
			return err
		}
		if !a.Decide(c.User.ID).On {
			return httpapi.Fail(outcome.Off, notAvailable)
		}
		if access == accessWrite && c.User.ReadOnly {
			return httpapi.Fail(outcome.Client, readOnlyKey)
		}
		if access == accessWrite && !a.changes.allow(c.User.ID) {
			httpapi.RetryAfter(c.W, changeInterval)
			return httpapi.Fail(outcome.Limit, problem.New(http.StatusTooManyRequests, "Too many changes; wait a little."))
		}
		c.Arm = policy.ArmExposed
		return serve(c)
	}
}

var (
	notAvailable = problem.New(http.StatusNotFound, "Automation is not available.")
	readOnlyKey  = problem.New(http.StatusForbidden, "This API key is read-only.")
)

// requireFlags returns an error while it is not known who has the feature.
func (a *api) requireFlags(c *httpapi.Call) error {
	if !a.Enabled || a.FlagsLoaded() {
		return nil
	}
	httpapi.RetryAfter(c.W, httpapi.RetrySoon)
	return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable, "It is not known at the moment whether automation is on for you."))
}

// authenticate sets the call's user.
func (a *api) authenticate(c *httpapi.Call) error {
	user, err := a.Identify(c.R)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		httpapi.RetryAfter(c.W, httpapi.RetrySoon)
		return httpapi.Fail(outcome.Host, problem.New(http.StatusServiceUnavailable, "Your identity cannot be checked at the moment.").WithCause(err))
	case err != nil:
		c.W.Header().Set("WWW-Authenticate", identity.Challenge)
		return httpapi.Fail(outcome.Client, problem.New(http.StatusUnauthorized, "Send a valid API key as a bearer token.").WithCause(err))
	}
	c.User = user
	return nil
}
