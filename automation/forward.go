package automation

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

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
)

// Forward sends requests to the node and passes its answers on as they come.
// It asks who makes a request, and refuses what belongs to nobody (401): the
// node's credentials are the gateway's, and nobody else stands before it. A
// request that automation does not concern goes out on the session that its
// client names. On a session of ours that has expired the request is sent once
// more on another; where the provider fails and the model has another, once
// more there: one retry in all, and none once the first byte of an answer has
// gone out.
func (m *Module) Forward() http.Handler {
	return m.evident(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := forwarding{m: m, w: w, r: r}
		defer f.release()
		if err := f.serve(); err != nil {
			m.refuse(w, f.r, err, f.overhead)
			return
		}
		outcome := Served
		if f.aside != "" {
			outcome = Untouched
		}
		if !f.broke {
			m.observer.ObserveChat(outcome, f.aside, f.overhead)
		}
	}))
}

// forwarding is one request on its way.
type forwarding struct {
	m       *Module
	w       http.ResponseWriter
	r       *http.Request
	ride    *ride // nil: not on a session of ours
	request proxyrouter.ChatRequest

	aside    string        // why not on a session of ours
	overhead time.Duration // until the request went on to the node
	broke    bool          // the answer did, after it had begun
}

func (f *forwarding) release() {
	if f.ride != nil && f.ride.claim != nil {
		f.ride.claim.Release()
	}
}

func (f *forwarding) serve() error {
	id := f.r.Header.Get("X-Request-Id")
	if id == "" {
		id = rand.Text()
	}
	f.w.Header().Set("X-Request-Id", id)
	to := endpointOf(f.r.URL.Path)
	if to.kind == "" {
		return newAPIError(http.StatusNotFound, typeInvalid, codeUnknownURL, "There is no such route.", nil)
	}
	if f.r.Method != http.MethodPost {
		f.w.Header().Set("Allow", http.MethodPost)
		return newAPIError(http.StatusMethodNotAllowed, typeInvalid, codeMethodNotAllowed, "Send a POST request.", nil)
	}
	begun := f.m.now()
	body, err := f.prepare()
	f.overhead = f.m.now().Sub(begun)
	if err != nil {
		return err
	}
	f.request = proxyrouter.ChatRequest{Path: to.path, SessionID: f.r.Header.Get(headerSession),
		ChatID: f.r.Header.Get("chat_id"), RequestID: id, Header: f.r.Header, Body: body}
	if f.ride == nil && f.request.SessionID == "" {
		return newAPIError(http.StatusBadRequest, typeInvalid, codeSessionRequired,
			"Automation is off for you: name a session in the header session_id.", nil)
	}
	failed := f.attempt()
	if failed != nil && f.change(failed) {
		failed = f.attempt()
	}
	if failed != nil {
		return failed.answer
	}
	return nil
}

// prepare plans the request, reads its body, and takes its session only then:
// a client that sends slowly must not hold one.
func (f *forwarding) prepare() ([]byte, error) {
	m := f.m
	who, err := m.identify(f.r)
	switch {
	case errors.Is(err, ErrIdentityUnavailable):
		return nil, unavailable("It cannot be told at the moment who you are.", retrySoon, err)
	case err != nil, !validUser(who.UserID):
		f.w.Header().Set("WWW-Authenticate", challengeBearer)
		return nil, newAPIError(http.StatusUnauthorized, typeInvalid, codeInvalidKey, "Send a valid API key as a bearer token.", err)
	}
	r, t, err := m.plan(f.r, who)
	f.r = r
	if err != nil {
		return nil, err
	}
	if t.aside != "" && m.cfg.FeatureEnabled && f.r.Header.Get(headerSession) != "" {
		t = namedRide(f.r, who) // nobody after us looks whose session it is
	}
	body, err := io.ReadAll(io.LimitReader(f.r.Body, m.cfg.MaxBodyBytes+1))
	if err != nil {
		return nil, bodyError(err, m.cfg.MaxBodyBytes)
	}
	if int64(len(body)) > m.cfg.MaxBodyBytes {
		return nil, bodyError(modelscan.ErrTooLarge, m.cfg.MaxBodyBytes)
	}
	if t, err = m.take(f.r.Context(), t); err != nil {
		return nil, err
	}
	if f.aside = t.aside; f.aside == "" {
		f.ride = t
	} else {
		clearWitness(f.r.Context())
	}
	return body, nil
}

// failure is an attempt of which the client has seen nothing.
type failure struct {
	remedy proxyrouter.Remedy
	answer *apiError // where no remedy helps
}

// maxFailure is how much of a failed answer is read to understand it.
const maxFailure = 64 << 10

// attempt sends the request and passes a good answer on.
func (f *forwarding) attempt() *failure {
	ctx := f.r.Context()
	if f.ride != nil {
		ctx = f.ride.claim.Context()
		f.request.SessionID, f.request.ModelID = f.ride.claim.SessionID(), f.ride.claim.ModelID()
		f.ride.announce(f.w.Header())
	}
	resp, err := f.m.node.Forward(ctx, f.request)
	if err != nil {
		return f.unanswered(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode < http.StatusMultipleChoices {
		f.pass(ctx, resp)
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxFailure)) // what came of it is enough to go by
	e := proxyrouter.Classify(resp.StatusCode, text)
	answer := newAPIError(e.Status, typeUpstream, codeProviderError, cmp.Or(e.Message, http.StatusText(e.Status)),
		fmt.Errorf("the node answered %d", resp.StatusCode))
	switch {
	case e.Status == http.StatusTooManyRequests:
		answer.body.Type = typeLimit
	case e.Status < http.StatusInternalServerError:
		answer.body.Type = typeInvalid
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && e.Status == resp.StatusCode {
		answer.retry = time.Duration(n) * time.Second
	}
	return &failure{e.Remedy, answer}
}

// unanswered is a request that got no answer. Another provider helps only where
// it was neither us nor the node itself that failed.
func (f *forwarding) unanswered(ctx context.Context, err error) *failure {
	switch {
	case ctx.Err() != nil && f.r.Context().Err() == nil:
		return &failure{answer: unavailable("The session was lost; send the request again.", time.Second, errors.Join(err, context.Cause(ctx)))}
	case errors.Is(err, session.ErrUnavailable):
		return &failure{answer: unavailable("The Morpheus node cannot be reached at the moment.", retrySoon, err)}
	}
	return &failure{proxyrouter.RemedyFailover, newAPIError(http.StatusBadGateway, typeUpstream, codeProviderError, "The Morpheus node gave no answer.", err)}
}

// change takes another session where that helps. The request's own goes out of
// service only when there is a remedy, and its first error stands when no
// other session can be had.
func (f *forwarding) change(e *failure) bool {
	t := f.ride
	if t == nil || t.named != "" || f.r.Context().Err() != nil {
		return false
	}
	want := t.want
	switch e.remedy {
	case proxyrouter.RemedyRenew:
		f.log("session expired at the node, taking another", e.answer)
		if err := t.claim.Expired(); err != nil {
			f.log("expired session not marked", err)
		}
	case proxyrouter.RemedyFailover:
		if !f.hasAlternative(t) {
			return false
		}
		want.OmitProvider = t.claim.Provider()
		f.log("provider failed, taking another", e.answer)
		if err := t.claim.Broken(); err != nil {
			f.log("broken session not marked", err)
		}
	default:
		return false
	}
	t.claim.Release()
	claim, err := f.m.sessions.Acquire(f.r.Context(), want)
	if err != nil {
		f.log("no other session to be had", err)
		return false
	}
	t.claim = claim
	return true
}

// hasAlternative tells whether somebody else offers the model.
func (f *forwarding) hasAlternative(t *ride) bool {
	if t.claim.Provider() == "" {
		return false
	}
	bids, err := f.m.node.RatedBids(f.r.Context(), t.claim.ModelID())
	if err != nil {
		f.log("bids not read, so no failover", err)
	}
	return slices.ContainsFunc(bids, func(b proxyrouter.Bid) bool { return !strings.EqualFold(b.Provider, t.claim.Provider()) })
}

func (f *forwarding) log(what string, err error) {
	f.m.log.WarnContext(f.r.Context(), what, "session_id", f.ride.claim.SessionID(), "model_id", f.ride.claim.ModelID(),
		"request_id", clipped(f.request.RequestID), "error", err)
}
