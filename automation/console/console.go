// Package console serves the operators' pages. They show whether the feature is
// on, for whom, and how its rollout proceeds, and have the controls to change that.
//
// The console is a client of the admin API, which it calls in process. So it
// shows and changes nothing that the API does not, and the API's audit has every
// change.
// It renders HTML on the server and works without JavaScript; with it, the
// figures refresh by themselves.
//
// Mount it below any path, with the path stripped:
//
//	mux.Handle("/console/", http.StripPrefix("/console", console.New(m, console.Options{Token: token})))
//
// All links are relative, so a proxy may put another prefix in front.
//
// # Signing in
//
// With [Options.Authorize] the host decides who is an operator and who has
// read-only access. With [Options.Token] operators sign in with the admin API's token and a
// name. With neither, every page is 404.
//
// # Security
//
// Every change is a POST with a CSRF token that is tied to a cookie (HttpOnly,
// SameSite=Strict), and cross-origin requests are refused by their headers as
// well. The content security policy allows the console's own files only; no
// page can be framed.
package console

import (
	"embed"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// Admin is the part of a module that the console needs. *automation.Module
// implements it.
type Admin interface {
	Admin(automation.Authorize) http.Handler
}

// Operator is a user of the console.
type Operator struct {
	Name     string // for the audit, at most 256 bytes
	ReadOnly bool   // may change nothing
}

// Options configure the console. The zero value serves 404s only.
type Options struct {
	// Authorize returns the operator who makes a request. An error is answered
	// with 403. If it is set, Token is ignored.
	Authorize func(*http.Request) (Operator, error)
	// Token is the admin API's token (AUTOMATION_ADMIN_TOKEN). If it is set,
	// operators sign in with it on a page of the console.
	Token string
	// Flag is the flag that the console is about; empty means "automation".
	Flag string
	// Logger receives the errors of pages and actions; nil discards them.
	Logger *slog.Logger
	// Now is the clock of cookies and countdowns; nil is the wall clock.
	Now func() time.Time
}

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets
var assetFiles embed.FS

//go:embed apidoc/apidoc.html
var documentFiles embed.FS

type console struct {
	opts  Options
	admin *client
	key   []byte // signs the cookies of those who sign in with the token
	pages *renderer
}

// New returns the console's handler. Mount it behind http.StripPrefix. New does
// no I/O.
func New(m Admin, o Options) http.Handler {
	if o.Flag == "" {
		o.Flag = automation.FlagName
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Authorize == nil && o.Token == "" {
		return http.NotFoundHandler()
	}
	c := &console{opts: o, admin: newClient(m), key: signingKey(o.Token), pages: newRenderer(o.Now)}
	mux := http.NewServeMux()
	c.routes(mux)
	return http.NewCrossOriginProtection().Handler(secureHeaders(mux))
}

// routes are flat: each path is one segment, so that relative links and cookies
// without a path work below any prefix.
func (c *console) routes(mux *http.ServeMux) {
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	mux.Handle("GET /assets/", cached(http.StripPrefix("/assets/", http.FileServerFS(assets))))
	mux.HandleFunc("GET /login", c.showLogin)
	mux.HandleFunc("POST /login", c.login)
	mux.HandleFunc("POST /logout", c.logout)
	for path, show := range map[string]pageFunc{
		"/{$}":      c.overview,
		"/switch":   c.flagSwitch,
		"/rollout":  c.rollout,
		"/user":     c.user,
		"/sessions": c.sessions,
		"/models":   c.models,
		"/audit":    c.audit,
		"/feedback": c.feedback,
		"/report":   c.report,
		"/cleanup":  c.cleanup,
	} {
		mux.Handle("GET "+path, c.page(show))
	}
	for path, act := range map[string]actFunc{
		"/switch":         c.changeFlag,
		"/rollout-start":  c.startRollout,
		"/rollout-action": c.actOnRollout,
		"/user-session":   c.endSession,
		"/feedback-done":  c.markFeedbackDone,
		"/cleanup":        c.runCleanup,
	} {
		mux.Handle("POST "+path, c.action(act))
	}
	mux.Handle("GET /feedback.csv", c.page(c.feedbackCSV))
	mux.Handle("GET /audit.csv", c.page(c.auditCSV))
	mux.Handle("GET /sessions.csv", c.page(c.sessionsCSV))
}

// A pageFunc fetches a page's data and renders it.
type pageFunc func(w http.ResponseWriter, r *request) error

// An actFunc handles a submitted form. It returns the page to redirect to and
// the message to show there.
type actFunc func(r *request) (target, message string, err error)

// request is a signed-in operator's request.
type request struct {
	*http.Request
	operator Operator
	csrf     string
	flash    flash // the last action's message
}

// page returns the handler of a page, for signed-in operators.
func (c *console) page(show pageFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operator, ok := c.authorize(w, r)
		if !ok {
			return
		}
		req := &request{Request: r, operator: operator, csrf: csrfToken(w, r), flash: takeFlash(w, r)}
		if err := show(w, req); err != nil {
			c.fail(w, req, err)
		}
	})
}

// action returns the handler of a form, for operators who may change something.
// It redirects to a page that shows the result.
func (c *console) action(act actFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operator, ok := c.authorize(w, r)
		if !ok {
			return
		}
		req := &request{Request: r, operator: operator}
		switch {
		case !validCSRF(w, r):
			c.fail(w, req, &statusError{http.StatusForbidden, "The form is no longer valid: go back, reload the page, and send it again."})
			return
		case operator.ReadOnly:
			c.fail(w, req, &statusError{http.StatusForbidden, "Your role may not change anything."})
			return
		}
		target, message, err := act(req)
		if err != nil {
			if s, ok := errors.AsType[*statusError](err); !ok || s.status >= http.StatusInternalServerError {
				c.opts.Logger.WarnContext(r.Context(), "console: action failed", "path", r.URL.Path, "operator", operator.Name, "error", err)
			}
			message = "error:" + publicText(err)
		}
		setFlash(w, r, message)
		seeOther(w, target)
	})
}

// seeOther redirects to a relative target. http.Redirect would make it absolute
// and lose the prefix that the host stripped.
func seeOther(w http.ResponseWriter, target string) {
	if target == "" {
		target = "./"
	}
	w.Header().Set("Location", target)
	w.WriteHeader(http.StatusSeeOther)
}

// fail answers with a page that shows an error.
func (c *console) fail(w http.ResponseWriter, r *request, err error) {
	status := http.StatusInternalServerError
	if s, ok := errors.AsType[*statusError](err); ok {
		status = s.status
	}
	if status >= http.StatusInternalServerError {
		c.opts.Logger.WarnContext(r.Context(), "console: page failed", "path", r.URL.Path, "error", err)
	}
	c.pages.render(w, status, "error.html", c.view(r, "Error", map[string]any{"Status": status, "Message": publicText(err)}))
}

// secureHeaders sets the headers that forbid framing and caching a page, and
// loading anything from another origin.
func secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// cached lets browsers keep the embedded files for a while.
func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=300")
		next.ServeHTTP(w, r)
	})
}
