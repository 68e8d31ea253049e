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

// The headers of a request and its answer.
const (
	headerSession     = "session_id"           // to the node, and from a client that brings its own
	headerSessionUsed = "X-Automation-Session" // the session that served a request
	headerModelUsed   = "X-Automation-Model"   // the name of the model that did
	headerRequestID   = "X-Request-Id"
)

// call is one request on its way through the service.
type call struct {
	*Service
	w         http.ResponseWriter
	r         *http.Request
	requestID string
	began     time.Time
	admission

	overhead time.Duration // until the request was passed on or refused
	status   int           // of the answer; 0 until it begins
	answered time.Time     // when the answer began
	hosted   bool          // the host's handler has the request
	relayed  bool          // the relay has ended the answer
	abort    bool          // the connection must not look as if the answer were complete
}

// handler serves calls and records how each ends, panics included.
func (s *Service) handler(serve func(*call) outcome.Outcome) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{Service: s, r: r, requestID: text.RequestID(r.Header.Get(headerRequestID)), began: s.Now()}
		if c.w = w; s.Enabled {
			c.w = c.observe(w)
		}
		o := outcome.Outcome{Cause: outcome.Internal, Code: outcome.CodeInternal} // of a panic
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

// observe notes the status and the beginning of the answer.
func (c *call) observe(w http.ResponseWriter) http.ResponseWriter {
	begin := func(status int) {
		if c.status == 0 && status >= http.StatusOK {
			c.status, c.answered = status, c.Now()
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

// complete adds to an outcome what all calls have in common.
func (c *call) complete(o outcome.Outcome) outcome.Outcome {
	ended := c.r.Context().Err()
	switch {
	case ended != nil && o.Cause != outcome.None && !c.relayed:
		if o.Cause, o.Code = outcome.ClientLeft, outcome.CodeClientLeft; errors.Is(ended, context.DeadlineExceeded) {
			o.Cause, o.Code = outcome.Host, outcome.CodeStreamInterrupted // a deadline of its own
		}
	case c.hosted && o.Cause == outcome.Internal:
		o.Cause, o.Code = outcome.Host, outcome.CodeHandlerError // its handler panicked
	}
	if c.skip != "" && o.Cause != outcome.Off {
		o.Skipped, o.Code = true, c.skip
	}
	o.Route, o.Status, o.RequestID = c.route.path, c.status, c.requestID
	o.Arm, o.UserID = c.arm, c.user.ID
	o.Overhead = c.overhead
	if o.Latency = c.answered.Sub(c.began); c.answered.IsZero() || o.Cause != outcome.None {
		o.Latency = c.Now().Sub(c.began)
	}
	return o
}
