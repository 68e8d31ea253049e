// Package httpapi has what the users' and the operators' HTTP APIs share:
// routes that return an error, one outcome for each request, and entity tags.
package httpapi

import (
	"context"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// Call is one request to an API.
type Call struct {
	W http.ResponseWriter
	R *http.Request
	// The route sets User and Arm, for the outcome, when it knows them.
	User identity.User
	Arm  string // see outcome.Outcome
}

// Mux serves routes that return errors, and records how each request ends. Its
// own 404 and 405 are problems (RFC 9457) too.
type Mux struct {
	mux    *http.ServeMux
	record func(context.Context, outcome.Outcome)
	now    func() time.Time
}

// NewMux makes a Mux without routes.
func NewMux(record func(context.Context, outcome.Outcome), now func() time.Time) *Mux {
	return &Mux{mux: http.NewServeMux(), record: record, now: now}
}

// Handle adds a route. An error that serve returns is one of [Fail], a
// *problem.Problem for a mistake of the client's, or any other error, which is
// answered with 500 or 503.
func (m *Mux) Handle(pattern string, serve func(*Call) error) {
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c := &Call{W: w, R: r}
		m.observe(c, func() error {
			err := serve(c)
			if err != nil {
				problem.Respond(c.W, r, err)
			}
			return err
		})
	})
}

// ServeHTTP implements http.Handler.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &Call{W: w, R: r}
	if !isCleanPath(r.URL.Path) {
		m.observe(c, func() error {
			problem.Respond(c.W, r, problem.New(http.StatusNotFound, "There is nothing here."))
			return nil
		})
		return
	}
	if _, pattern := m.mux.Handler(r); pattern != "" {
		m.mux.ServeHTTP(w, r)
		return
	}
	m.observe(c, func() error {
		problem.Routes(m.mux).ServeHTTP(c.W, r)
		return nil
	})
}

// isCleanPath reports whether a path can belong to a route. http.ServeMux would
// redirect a path with dots, and the database stores no invalid UTF-8.
func isCleanPath(p string) bool {
	return utf8.ValidString(p) && !strings.ContainsFunc(p, unicode.IsControl) && path.Clean(p) == strings.TrimSuffix(p, "/")
}

// observe records how serve ends, even if it panics.
func (m *Mux) observe(c *Call, serve func() error) {
	began := m.now()
	w := &statusWriter{ResponseWriter: c.W, status: http.StatusOK}
	c.W = w
	o := outcome.Outcome{Cause: outcome.Internal, Code: outcome.CodeInternal} // if serve panics
	defer func() {
		o.Route, o.Status, o.Arm, o.UserID = c.R.Pattern, w.status, c.Arm, c.User.ID
		o.RequestID = text.Truncate(c.R.Header.Get("X-Request-Id"), 128)
		o.Latency = m.now().Sub(began)
		o.DatabaseTime = o.Latency // an approximation: a request does little else
		if c.R.Context().Err() != nil {
			o.Cause, o.Code = outcome.ClientLeft, outcome.CodeClientLeft
		}
		m.record(c.R.Context(), o)
	}()
	err := serve()
	o.Cause, o.Code, o.Err = causeOf(err, w.status), "", err
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// failure is a problem and its cause.
type failure struct {
	cause outcome.Cause
	error
}

func (f failure) Unwrap() error { return f.error }

// Fail makes an error that is answered with p and recorded with cause.
func Fail(cause outcome.Cause, p *problem.Problem) error { return failure{cause, p} }

// causeOf is why a request ended: the cause given to [Fail], outcome.Client for
// any other problem with a 4xx, such as those of problem.Decode, and
// outcome.Internal for all other errors.
func causeOf(err error, status int) outcome.Cause {
	if f, ok := errors.AsType[failure](err); ok {
		return f.cause
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		status = p.Status
	} else if err != nil {
		return outcome.Internal
	}
	if cause := policy.CauseOf(status); cause == outcome.None || cause == outcome.Client {
		return cause
	}
	return outcome.Internal
}

// RetrySoon is the Retry-After if no better estimate is known.
const RetrySoon = 5 * time.Second

// RetryAfter sets the header Retry-After, in whole seconds, at least one.
func RetryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(int((d+time.Second-1)/time.Second), 1)))
}
