package chat

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/felixge/httpsnoop"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// Headers of requests and answers.
const (
	headerSession     = "session_id"           // of requests to the node, and of clients that name a session
	headerSessionUsed = "X-Automation-Session" // of answers: the session that served the request
	headerModelUsed   = "X-Automation-Model"   // of answers: the name of the model that served it
	headerRequestID   = "X-Request-Id"
)

// call is one request on its way through the service.
type call struct {
	*Service
	w         http.ResponseWriter
	r         *http.Request
	requestID string
	startedAt time.Time
	admission

	overhead    time.Duration // from startedAt until the request was passed on or refused
	status      int           // of the answer; 0 until the header is written
	firstByteAt time.Time     // when the header was written
	hosted      bool          // the request was passed to the host's handler
	relayed     bool          // the outcome has the relay's cause, which the context must not replace
	abort       bool          // the connection must be aborted, so that the answer does not look complete
}

// handler serves calls and records how each one ends, even if serve panics.
func (s *Service) handler(serve func(*call) outcome.Outcome) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{Service: s, w: w, r: r, requestID: text.RequestID(r.Header.Get(headerRequestID)), startedAt: s.Now()}
		if s.Enabled {
			c.w = c.observe(w)
		}
		o := outcome.Outcome{Cause: outcome.Internal, Code: outcome.CodeInternal} // if serve panics
		defer func() {
			if c.body != nil {
				c.body.Close()
			}
			s.Record(r.Context(), c.complete(o))
			if c.abort {
				panic(http.ErrAbortHandler)
			}
		}()
		o = serve(c)
	})
}

// observe records the answer's status and the time of its first byte.
func (c *call) observe(w http.ResponseWriter) http.ResponseWriter {
	begin := func(status int) {
		if c.status == 0 && status >= http.StatusOK {
			c.status, c.firstByteAt = status, c.Now()
		}
	}
	return httpsnoop.Wrap(w, httpsnoop.Hooks{
		WriteHeader: func(next httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
			return func(status int) { begin(status); next(status) }
		},
		Write: func(next httpsnoop.WriteFunc) httpsnoop.WriteFunc {
			return func(p []byte) (int, error) { begin(http.StatusOK); return next(p) }
		},
		ReadFrom: func(next httpsnoop.ReadFromFunc) httpsnoop.ReadFromFunc {
			return func(src io.Reader) (int64, error) { begin(http.StatusOK); return next(src) }
		},
	})
}

// complete fills in the fields that every call's outcome has. If the client or
// the host ended a request that failed, that is the cause.
func (c *call) complete(o outcome.Outcome) outcome.Outcome {
	ctxErr := c.r.Context().Err()
	switch {
	case ctxErr != nil && o.Cause != outcome.None && !c.relayed:
		o.Cause, o.Code = outcome.ClientLeft, outcome.CodeClientLeft
		if errors.Is(ctxErr, context.DeadlineExceeded) {
			o.Cause, o.Code = outcome.Host, outcome.CodeStreamInterrupted // the host's own deadline
		}
	case c.hosted && o.Cause == outcome.Internal:
		o.Cause, o.Code = outcome.Host, outcome.CodeHandlerError // the host's handler panicked
	}
	if c.skip != "" && o.Cause != outcome.Off { // outcome.Off is automation's own answer
		o.Skipped, o.Code = true, c.skip
	}
	o.Route, o.Status, o.RequestID = c.route.path, c.status, c.requestID
	o.Arm, o.UserID = c.arm, c.user.ID
	o.Overhead = c.overhead
	o.Latency = c.firstByteAt.Sub(c.startedAt)
	if c.firstByteAt.IsZero() || o.Cause != outcome.None {
		o.Latency = c.Now().Sub(c.startedAt)
	}
	return o
}
