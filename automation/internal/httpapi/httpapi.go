// Package httpapi is what the users' and the operators' HTTP APIs have in
// common: routes that return an error, one outcome for each request, and
// entity tags.
package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// Call is one request to an API.
type Call struct {
	W http.ResponseWriter
	R *http.Request
	// User and Arm are set by who identifies the user, for the outcome.
	User identity.User
	Arm  outcome.Arm
}

// Mux serves routes that return errors, and records how each request ends. It
// is an http.Handler whose own 404 and 405 are problems as well.
type Mux struct {
	mux    *http.ServeMux
	record func(context.Context, outcome.Outcome)
	now    func() time.Time
}

// NewMux makes a Mux without routes.
func NewMux(record func(context.Context, outcome.Outcome), now func() time.Time) *Mux {
	return &Mux{mux: http.NewServeMux(), record: record, now: now}
}

// Handle adds a route. An error that serve returns is one that [Fail] made, a
// *problem.Problem of the client's, or a fault of ours.
func (m *Mux) Handle(pattern string, serve func(*Call) error) {
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		c := &Call{W: w, R: r}
		m.observe(c, func() (err error) {
			problem.Handler(nil, func(w http.ResponseWriter, _ *http.Request) error {
				c.W = w
				err = serve(c)
				return err
			}).ServeHTTP(c.W, r)
			return err
		})
	})
}

// ServeHTTP implements http.Handler.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := m.mux.Handler(r); pattern != "" {
		m.mux.ServeHTTP(w, r)
		return
	}
	c := &Call{W: w, R: r}
	m.observe(c, func() error {
		problem.Routes(m.mux).ServeHTTP(c.W, r)
		return nil
	})
}

// observe records how serve ends, a panic included.
func (m *Mux) observe(c *Call, serve func() error) {
	began := m.now()
	w := &statusWriter{ResponseWriter: c.W, status: http.StatusOK}
	c.W = w
	o := outcome.Outcome{Cause: outcome.Internal, Code: outcome.CodeInternal}
	defer func() {
		o.Route, o.Status, o.Arm, o.UserID = c.R.Pattern, w.status, c.Arm, c.User.ID
		o.RequestID = text.Truncate(c.R.Header.Get("X-Request-Id"), 128)
		o.Latency = m.now().Sub(began)
		o.DatabaseTime = o.Latency // such a request does little else
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

// failure is a problem and what it was for.
type failure struct {
	cause outcome.Cause
	error
}

func (f failure) Unwrap() error { return f.error }

// Fail makes an error that is answered with p, and ends the request for cause.
func Fail(cause outcome.Cause, p *problem.Problem) error { return failure{cause, p} }

// causeOf is why a request ended: what [Fail] said, or the client's fault
// where the problem is a 4xx, such as those of problem.Decode.
func causeOf(err error, status int) outcome.Cause {
	if f, ok := errors.AsType[failure](err); ok {
		return f.cause
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		status = p.Status
	} else if err != nil {
		return outcome.Internal
	}
	if cause := outcome.OfStatus(status); cause == outcome.None || cause == outcome.Client {
		return cause
	}
	return outcome.Internal
}

// RetryAfter sets the header of that name.
func RetryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(int((d+time.Second-1)/time.Second), 1)))
}

// ETag is the entity tag of a version.
func ETag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// tags takes the lists of entity tags in a header apart.
func tags(values []string) []string {
	var list []string
	for _, v := range values {
		for tag := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(tag))
		}
	}
	return list
}

// NotModified reports whether the request's If-None-Match lists etag.
func NotModified(r *http.Request, etag string) bool {
	for _, tag := range tags(r.Header.Values("If-None-Match")) {
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

// MatchVersion reads an If-Match: "*" or nothing is any version, which is not
// given. One version is enough: nobody has reason to send more.
func MatchVersion(r *http.Request) (version int64, given, ok bool) {
	list := tags(r.Header.Values("If-Match"))
	if len(list) == 0 || len(list) == 1 && list[0] == "*" {
		return 0, false, true
	}
	if len(list) > 1 {
		return 0, true, false
	}
	n, err := strconv.ParseInt(strings.Trim(list[0], `"`), 10, 64)
	return n, true, err == nil && n >= 0 && list[0] == ETag(n)
}
