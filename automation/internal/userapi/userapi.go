// Package userapi is the users' HTTP API: settings, sessions, status and
// feedback. A user reaches only their own.
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
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Deps are what the API works with. All are required.
type Deps struct {
	BasePath string // such as /api/v1/automation
	FlagName string
	Enabled  bool // the process's master switch
	Identify identity.Func
	Flag     func() *flags.Flag // nil while there is none
	Decide   func(userID string) flags.Decision
	// FlagsLoaded reports whether decisions have anything to go by.
	FlagsLoaded func() bool
	Settings    Settings
	Sessions    Sessions
	Feedback    Feedback
	// FeedbackCreated is called with each new entry; nil for none.
	FeedbackCreated func(context.Context, feedback.Entry)
	// ModelName returns the name of a model's id, or the id.
	ModelName func(id string) string
	// MinDuration and MaxDuration bound a session's duration.
	MinDuration, MaxDuration time.Duration
	// Changed is called after a user has changed their settings; nil for none.
	Changed func(before, after settings.Settings)
	// Record is called once for each request, when it has ended.
	Record func(context.Context, outcome.Outcome)
	Logger *slog.Logger
	Now    func() time.Time
}

// Settings reads and changes settings; *settings.Store does.
type Settings interface {
	GetCached(ctx context.Context, userID string) (settings.Settings, error)
	Get(ctx context.Context, userID string) (settings.Settings, error)
	Put(ctx context.Context, userID string, v settings.Values, c settings.Condition) (settings.Settings, error)
	Patch(ctx context.Context, userID string, ch settings.Change, c settings.Condition) (settings.Settings, error)
	Delete(ctx context.Context, userID string, c settings.Condition) (settings.Settings, error)
}

// Sessions lists and ends a user's sessions; *session.Manager does.
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
	a := &api{Deps: d, changes: newLimiter(changesAtOnce, changeInterval), feedback: newLimiter(feedbackAtOnce, feedbackInterval)}
	mux := httpapi.NewMux(d.Record, d.Now)
	for _, r := range routes {
		serve := func(c *httpapi.Call) error { return r.serve(a, c) }
		if r.access != open {
			serve = a.requireFeature(r.access, serve)
		}
		mux.Handle(r.method+" "+d.BasePath+r.path, serve)
	}
	return mux
}

// access is what a route asks of its user.
type access int

const (
	open   access = iota // anybody who is known
	reads                // who has the feature
	writes               // who has the feature and may write
)

var routes = []struct {
	method, path string // the path below BasePath
	access       access
	serve        func(*api, *httpapi.Call) error
}{
	{http.MethodGet, "/settings", reads, (*api).getSettings},
	{http.MethodPut, "/settings", writes, (*api).putSettings},
	{http.MethodPost, "/settings", writes, (*api).putSettings},
	{http.MethodPatch, "/settings", writes, (*api).patchSettings},
	{http.MethodDelete, "/settings", writes, (*api).deleteSettings},
	{http.MethodGet, "/sessions", reads, (*api).getSessions},
	{http.MethodDelete, "/sessions/{id}", writes, (*api).deleteSession},
	{http.MethodGet, "/status", open, (*api).getStatus},
	{http.MethodPost, "/feedback", open, (*api).postFeedback},
}

// Routes lists the API's routes below a base path, as "METHOD /path".
func Routes(basePath string) []string {
	var list []string
	for _, r := range routes {
		list = append(list, r.method+" "+basePath+r.path)
	}
	return list
}

// requireFeature serves users who have the feature, and writes only for those
// who may write.
func (a *api) requireFeature(access access, serve func(*httpapi.Call) error) func(*httpapi.Call) error {
	return func(c *httpapi.Call) error {
		if err := a.flagUnknown(c); err != nil {
			return err
		}
		off := httpapi.Fail(outcome.Off, problem.New(http.StatusNotFound, "Automation is not available."))
		if f := a.Flag(); !a.Enabled || f == nil || !f.Enabled {
			return off
		}
		if err := a.authenticate(c); err != nil {
			return err
		}
		if !a.Decide(c.User.ID).On {
			return off
		}
		if access == writes && c.User.ReadOnly {
			return httpapi.Fail(outcome.Client, problem.New(http.StatusForbidden, "This API key may read only."))
		}
		if access == writes && !a.changes.allow(c.User.ID) {
			httpapi.RetryAfter(c.W, changeInterval)
			return httpapi.Fail(outcome.Limit, problem.New(http.StatusTooManyRequests, "Too many changes; wait a little."))
		}
		c.Arm = policy.ArmExposed
		return serve(c)
	}
}

// flagUnknown refuses a request while nobody knows who has the feature.
func (a *api) flagUnknown(c *httpapi.Call) error {
	if !a.Enabled || a.FlagsLoaded() {
		return nil
	}
	httpapi.RetryAfter(c.W, retrySoon)
	return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable, "Whether automation is on for you is not known at the moment."))
}

// retrySoon is when to come back where nobody knows better.
const retrySoon = 5 * time.Second

// authenticate finds out who makes the request.
func (a *api) authenticate(c *httpapi.Call) error {
	user, err := a.Identify(c.R)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		httpapi.RetryAfter(c.W, retrySoon)
		return httpapi.Fail(outcome.Host, problem.New(http.StatusServiceUnavailable, "Who you are cannot be found out at the moment.").WithCause(err))
	case err != nil:
		c.W.Header().Set("WWW-Authenticate", identity.Challenge)
		return httpapi.Fail(outcome.Client, problem.New(http.StatusUnauthorized, "Send a valid API key as a bearer token.").WithCause(err))
	}
	c.User = user
	return nil
}
