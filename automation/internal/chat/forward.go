package chat

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// Forwarder sends requests to the node and relays its answers.
func (s *Service) Forwarder() http.Handler {
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
}

// serve returns an error as long as the answer has not begun.
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
	f.overhead = f.Now().Sub(f.began)
	if err != nil {
		return outcome.Outcome{}, err
	}
	f.request = proxyrouter.ChatRequest{Path: f.route.path, SessionID: f.clientSession.String(),
		UserID: f.user.ID, ChatID: f.r.Header.Get("chat_id"), RequestID: f.requestID, Header: f.r.Header, Body: body}
	o, failed := f.attempt()
	if failed != nil && f.switchSession(failed) {
		o, failed = f.attempt()
	}
	if failed != nil {
		return outcome.Outcome{}, failed.answer
	}
	return o, nil
}

// prepare admits the request, reads its body, and acquires its session only
// then: a client that sends slowly must not hold one.
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

// sessionRequired refuses a request that brings no session and gets none.
func (f *forwarding) sessionRequired() error {
	if f.Enabled && !f.FlagsLoaded() { // whether automation is off cannot be told
		return unavailable(outcome.Database, "Whether automation is on for you cannot be told at the moment.", retrySoon, nil)
	}
	return newError(outcome.Off, outcome.CodeSessionRequired, "Automation is off for you: name a session in the header session_id.", nil)
}

func (f *forwarding) readBody() ([]byte, error) {
	from := f.body
	if from == nil {
		from = f.r.Body
	}
	body, err := io.ReadAll(io.LimitReader(from, f.MaxBodyBytes+1))
	if err == nil && int64(len(body)) > f.MaxBodyBytes {
		err = modelscan.ErrTooLarge
	}
	if err != nil {
		return nil, bodyError(err, f.MaxBodyBytes)
	}
	return body, nil
}

// failure is an attempt of which the client has seen nothing.
type failure struct {
	remedy proxyrouter.Remedy
	answer *apiError // where no remedy helps
}

// maxErrorBody is how much of a failed answer is read to understand it.
const maxErrorBody = 64 << 10

// attempt sends the request and relays a good answer.
func (f *forwarding) attempt() (outcome.Outcome, *failure) {
	ctx := f.r.Context()
	if f.claim != nil {
		ctx = f.claim.Context()
		f.request.SessionID, f.request.ModelID = f.claim.SessionID(), f.claim.ModelID()
		f.setSessionHeaders()
	}
	resp, err := f.Node.Forward(ctx, f.request)
	if err != nil {
		return outcome.Outcome{}, f.transportError(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < http.StatusMultipleChoices {
		return f.relay(ctx, resp), nil
	}
	return outcome.Outcome{}, responseError(resp)
}

// responseError understands an answer of the node that is an error.
func responseError(resp *http.Response) *failure {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what came of it is enough to go by
	e := proxyrouter.Classify(resp.StatusCode, text)
	err := fmt.Errorf("the node answered %d", resp.StatusCode)
	answer := newError(outcome.Provider, outcome.CodeProviderError, cmp.Or(e.Message, http.StatusText(e.Status)), err)
	switch {
	case e.Remedy == proxyrouter.RemedyRenew:
		answer.cause, answer.code = outcome.Session, outcome.CodeSessionUnavailable
	case e.Status < http.StatusInternalServerError:
		answer.cause, answer.code = outcome.Model, outcome.CodeModelError
		answer.body.Type = errorType(e.Status)
	}
	answer.status = e.Status
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && e.Status == resp.StatusCode {
		answer.retry = time.Duration(n) * time.Second
	}
	return &failure{e.Remedy, answer}
}

// transportError is for a request that got no answer. Another provider helps
// only where it was neither the replica nor the node itself that failed.
func (f *forwarding) transportError(ctx context.Context, err error) *failure {
	switch {
	case ctx.Err() != nil && f.r.Context().Err() == nil:
		return &failure{answer: unavailable(outcome.Database, "The session was lost; send the request again.", time.Second, errors.Join(err, context.Cause(ctx)))}
	case errors.Is(err, session.ErrUnavailable):
		return &failure{answer: unavailable(outcome.Node, "The Morpheus node cannot be reached at the moment.", retrySoon, err)}
	}
	return &failure{proxyrouter.RemedyFailover, newError(outcome.Provider, outcome.CodeProviderError, "The Morpheus node gave no answer.", err)}
}

// switchSession takes another session where that helps. The request's own goes
// out of service only when there is a remedy, and its first error stands when
// no other session can be had.
func (f *forwarding) switchSession(e *failure) bool {
	if f.claim == nil || f.clientSession != "" || f.r.Context().Err() != nil {
		return false
	}
	want := f.want
	switch e.remedy {
	case proxyrouter.RemedyRenew:
		f.warn("session expired at the node, taking another", e.answer)
		if err := f.claim.MarkExpired(); err != nil {
			f.warn("expired session not marked", err)
		}
	case proxyrouter.RemedyFailover:
		if !f.hasAlternative() {
			return false
		}
		want.OmitProvider = f.claim.Provider()
		f.warn("provider failed, taking another", e.answer)
		if err := f.claim.MarkBroken(); err != nil {
			f.warn("broken session not marked", err)
		}
	default:
		return false
	}
	f.claim.Release()
	claim, err := f.Sessions.Acquire(f.r.Context(), want)
	if err != nil {
		f.warn("no other session to be had", err)
		return false
	}
	f.claim = claim
	return true
}

// hasAlternative reports whether another provider offers the model.
func (f *forwarding) hasAlternative() bool {
	if f.claim.Provider() == "" {
		return false
	}
	bids, err := f.Node.RatedBids(f.r.Context(), f.claim.ModelID())
	if err != nil {
		f.warn("bids not read, so no failover", err)
	}
	return slices.ContainsFunc(bids, func(b proxyrouter.Bid) bool { return !strings.EqualFold(b.Provider, f.claim.Provider()) })
}

// warn logs what happens to the call's session.
func (f *forwarding) warn(what string, err error) {
	f.Logger.WarnContext(f.r.Context(), what, "session_id", f.claim.SessionID(), "model_id", f.claim.ModelID(),
		"request_id", f.requestID, "error", err)
}
