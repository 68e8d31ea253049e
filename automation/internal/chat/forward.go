package chat

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Forwarder sends requests to the node and relays its answers. It serves the
// models as well, so that it can be mounted for all of OpenAI's routes.
func (s *Service) Forwarder() http.Handler {
	forward, models := s.forward(), s.ServeModels()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := modelPath(r.URL.Path); ok {
			models.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	})
}

func (s *Service) forward() http.Handler {
	return s.handler(func(c *call) outcome.Outcome {
		f := forwarding{call: c}
		defer f.release()
		o, err := f.serve()
		if err != nil {
			return c.writeError(err)
		}
		return o
	})
}

// forwarding is a call that goes to the node.
type forwarding struct {
	*call
	request proxyrouter.ChatRequest

	initiated, replaced bool // the remedies that have been tried
}

// serve returns an error only if the answer has not begun.
func (f *forwarding) serve() (outcome.Outcome, error) {
	if f.requestID == "" {
		f.requestID = rand.Text()
	}
	f.w.Header().Set(headerRequestID, f.requestID)
	f.route = routeOf(f.r.URL.Path)
	if f.route.path == "" {
		return outcome.Outcome{}, clientError(outcome.CodeUnknownURL, "There is no such route.", nil)
	}
	if f.r.Method != http.MethodPost {
		f.w.Header().Set("Allow", http.MethodPost)
		return outcome.Outcome{}, clientError(outcome.CodeMethodNotAllowed, "Send a POST request.", nil)
	}
	body, err := f.prepare()
	f.overhead = f.Now().Sub(f.startedAt)
	if err != nil {
		return outcome.Outcome{}, err
	}
	f.request = proxyrouter.ChatRequest{Path: f.route.path, SessionID: f.clientSession.String(),
		UserID: f.user.ID, ChatID: f.r.Header.Get("chat_id"), RequestID: f.requestID, Header: f.r.Header, Body: body}
	o, failed := f.attempt()
	for failed != nil && f.remedy(failed) {
		o, failed = f.attempt()
	}
	if failed != nil {
		relay.CopyLimits(f.w.Header(), failed.header)
		if failed.header.Get("Retry-After") != "" {
			failed.answer.retry = 0 // the client gets the node's
		}
		return outcome.Outcome{}, failed.answer
	}
	return o, nil
}

// prepare admits the request, reads its body, and then acquires its session: a
// client that sends slowly must not hold a session.
func (f *forwarding) prepare() ([]byte, error) {
	user, err := f.Identify(f.r)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		return nil, identityUnavailable(err)
	case err != nil:
		f.w.Header().Set("WWW-Authenticate", identity.Challenge)
		return nil, clientError(outcome.CodeInvalidKey, "Send a valid API key as a bearer token.", err)
	}
	f.user = user
	if err := f.admit(); err != nil {
		return nil, err
	}
	switch {
	case f.namesSession():
		if err := f.useClientSession(); err != nil {
			return nil, err
		}
	case f.skip == "" && f.missing.has(f.route, f.Now()):
		return nil, clientError(outcome.CodeUnknownURL, noRouteMessage, nil)
	case f.skip == "":
		if err := f.resolve(); err != nil {
			return nil, err
		}
	}
	body, err := f.readBody()
	if err != nil {
		return nil, err
	}
	if f.skip != "" && f.clientSession == "" {
		return nil, f.sessionRequired()
	}
	return body, f.acquire(f.r.Context())
}

// sessionRequired is the answer to a request that names no session and on which
// automation does not act.
func (f *forwarding) sessionRequired() error {
	if f.Enabled && !f.FlagsLoaded() {
		return unavailable(outcome.Database, "It is not known at the moment whether automation is on for you.", retrySoon, nil)
	}
	return newError(outcome.Off, outcome.CodeSessionRequired, "Automation is off for you: name a session in the header session_id.", nil)
}

func (f *forwarding) readBody() ([]byte, error) {
	body, err := f.openBody().Bytes()
	if err != nil {
		return nil, bodyError(err, f.MaxBodyBytes)
	}
	return body, nil
}

// failure is a failed attempt whose client has received nothing yet.
type failure struct {
	answer  *apiError   // what the client gets if no remedy helps
	expired bool        // with outcome.Session: the provider has ended the session
	final   bool        // with outcome.Provider: another session would not help
	header  http.Header // the node's, whose limits the client gets; nil if they do not concern it
}

// attempt sends the request and relays a good answer. If it returns no failure,
// the relay releases the claim.
func (f *forwarding) attempt() (outcome.Outcome, *failure) {
	ctx, cancel := f.nodeContext()
	f.busy = false
	if f.claim != nil {
		f.request.SessionID, f.request.ModelID = f.claim.SessionID(), f.claim.ModelID()
		f.setSessionHeaders()
	}
	release := f.releaser()
	request := f.request
	send := func() (*http.Response, error) { return f.Node.Forward(ctx, request) }
	resp, err := f.answers.Send(f.r.Context(), relay.Attempt{Send: send, Cancel: cancel, Release: release}) //nolint:bodyclose // relay and ReadError close it
	switch {
	case errors.Is(err, relay.ErrAbandoned):
		return f.abandoned(err)
	case err != nil:
		f.busy = !errors.Is(err, session.ErrUnavailable) && !relay.ClosedByNode(err) // the node may still be at work
		failed := f.transportError(ctx, err)
		cancel(nil)
		return outcome.Outcome{}, failed
	case resp.StatusCode < http.StatusOK: // 101 has no body that ends
		_ = resp.Body.Close()
		cancel(nil)
		return outcome.Outcome{}, f.responseError(resp.StatusCode, resp.Header, nil)
	case resp.StatusCode >= http.StatusMultipleChoices:
		text, drained := f.answers.ReadError(resp, cancel)
		f.busy = !drained
		cancel(nil)
		return outcome.Outcome{}, f.responseError(resp.StatusCode, resp.Header, text)
	}
	return f.relay(resp, cancel, release)
}

// responseError converts an error that the node answered with, or sent in place
// of an answer.
func (f *forwarding) responseError(status int, header http.Header, text []byte) *failure {
	e := f.Node.Classify(status, header, text)
	answer := newError(e.Cause, errorCode(e), e.Message, fmt.Errorf("the node answered %d", status))
	answer.status, answer.body.Type = e.Status, errorType(e.Status)
	if e.Cause == outcome.Model {
		answer.body.Param = e.Param
		answer.body.Code, answer.body.Type = cmp.Or(e.Code, answer.body.Code), cmp.Or(e.Type, answer.body.Type)
	}
	if answer.code == outcome.CodeUnknownURL {
		f.missing.add(f.route, f.Now())
		answer.body.Message = noRouteMessage
	}
	if e.RetryAfter > 0 {
		answer.retry = e.RetryAfter
	}
	failed := &failure{answer: answer, expired: e.Expired, final: e.Final}
	if e.Status == status {
		failed.header = header
	}
	return failed
}

const noRouteMessage = "The Morpheus node does not have this route."

// errorCode is the code of an error that the node answered with.
func errorCode(e proxyrouter.ChatError) outcome.Code {
	switch e.Cause {
	case outcome.Model:
		return outcome.CodeModelError
	case outcome.Session, outcome.Node:
		return outcome.CodeSessionUnavailable
	case outcome.Client:
		switch e.Status {
		case http.StatusNotFound:
			return outcome.CodeUnknownURL
		case http.StatusRequestEntityTooLarge:
			return outcome.CodeBodyTooLarge
		}
		return outcome.CodeInvalidBody
	}
	if e.Status == http.StatusGatewayTimeout {
		return outcome.CodeProviderTimeout
	}
	return outcome.CodeProviderError
}

// transportError converts the error of a request that got no answer. Only in
// the last case can another provider help: neither this replica nor the node
// itself failed.
func (f *forwarding) transportError(ctx context.Context, err error) *failure {
	switch {
	case errors.Is(err, relay.ErrClosed), errors.Is(context.Cause(ctx), session.ErrNotRunning):
		return &failure{answer: unavailable(outcome.Host, "This replica is stopping.", time.Second, err)}
	case ctx.Err() != nil:
		return &failure{answer: unavailable(outcome.Database, "The session was lost; send the request again.", time.Second, errors.Join(err, context.Cause(ctx)))}
	case errors.Is(err, session.ErrUnavailable):
		return &failure{answer: unavailable(outcome.Node, "The Morpheus node cannot be reached at the moment.", retrySoon, err)}
	}
	return &failure{answer: newError(outcome.Provider, outcome.CodeProviderError, "The Morpheus node did not answer.", err)}
}

// warn logs a message about the call's session.
func (f *forwarding) warn(message string, err error) {
	f.Logger.WarnContext(f.r.Context(), message, "session_id", f.claim.SessionID(), "model_id", f.claim.ModelID(),
		"request_id", f.requestID, "error", err)
}
