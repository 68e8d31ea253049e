package automation

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Forward sends requests to the node and passes its answers on as they come.
// Requests that automation does not concern go as they are, with the client's
// own session_id if any. On a session of ours that has expired the request is
// sent once more on another; where the provider fails and the model has
// another, once more there. Nothing is sent again once the first byte of an
// answer has gone out.
func (m *Module) Forward() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, t, err := m.board(r)
		if err != nil {
			m.refuse(w, r, err)
			return
		}
		f := forwarding{m: m, w: w, r: r, ride: t}
		defer f.release()
		f.serve()
	})
}

// forwarding is one request on its way.
type forwarding struct {
	m       *Module
	w       http.ResponseWriter
	r       *http.Request
	ride    *ride // nil: not on a session of ours
	request proxyrouter.ChatRequest
}

func (f *forwarding) release() {
	if f.ride != nil && f.ride.claim != nil {
		f.ride.claim.Release()
	}
}

// maxFailure is how much of a failed answer is read to understand it.
const maxFailure = 64 << 10

func (f *forwarding) serve() {
	body, err := io.ReadAll(io.LimitReader(f.r.Body, f.m.cfg.MaxBodyBytes+1))
	if err == nil && int64(len(body)) > f.m.cfg.MaxBodyBytes {
		f.m.refuse(f.w, f.r, newAPIError(http.StatusRequestEntityTooLarge, typeInvalid, codeBodyTooLarge,
			fmt.Sprintf("The request's body is larger than %d bytes.", f.m.cfg.MaxBodyBytes), nil))
		return
	}
	if err != nil {
		f.m.refuse(f.w, f.r, bodyError(err, f.m.cfg.MaxBodyBytes))
		return
	}
	id := f.r.Header.Get("X-Request-Id")
	if id == "" {
		id = rand.Text()
	}
	f.request = proxyrouter.ChatRequest{Path: endpointOf(f.r.URL.Path).path, SessionID: f.r.Header.Get(headerSession),
		ChatID: f.r.Header.Get("chat_id"), RequestID: id, Header: f.r.Header, Body: body}

	failed := f.attempt()
	if failed == nil {
		return
	}
	if f.change(failed) {
		if failed = f.attempt(); failed == nil {
			return
		}
	}
	f.w.Header().Set("X-Request-Id", id)
	f.m.refuse(f.w, f.r, failed.answer())
}

// failure is an attempt of which the client has seen nothing.
type failure struct {
	proxyrouter.ChatError
	cause error
}

func (e *failure) answer() *apiError {
	kind := typeUpstream
	if e.Status < http.StatusInternalServerError {
		kind = typeInvalid
	}
	return newAPIError(e.Status, kind, "provider_error", e.Message, e.cause)
}

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
		if errors.Is(context.Cause(ctx), session.ErrLeaseLost) {
			return &failure{proxyrouter.ChatError{Status: http.StatusServiceUnavailable, Message: "The session was lost; send the request again."}, err}
		}
		return &failure{proxyrouter.ChatError{Remedy: proxyrouter.RemedyFailover, Status: http.StatusBadGateway,
			Message: "The Morpheus node does not answer."}, err}
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxFailure)) // what came of it is enough to go by
		return &failure{proxyrouter.Classify(resp.StatusCode, text), fmt.Errorf("the node answered %d", resp.StatusCode)}
	}
	f.pass(ctx, resp)
	return nil
}

// change takes another session where that helps. What could be had instead is
// made sure of before anything is given up: the request's own session goes out
// of service only when there is a remedy, and its first error stands when the
// other session cannot be had.
func (f *forwarding) change(e *failure) bool {
	t := f.ride
	if t == nil || t.named || f.r.Context().Err() != nil {
		return false
	}
	want := t.want
	switch e.Remedy {
	case proxyrouter.RemedyRenew:
		f.log("session expired at the node, taking another", e)
		if err := t.claim.Expired(); err != nil {
			f.log("expired session not marked", &failure{cause: err})
		}
	case proxyrouter.RemedyFailover:
		if !f.hasAlternative(t) {
			return false
		}
		want.OmitProvider = t.claim.Provider()
		f.log("provider failed, taking another", e)
		if err := t.claim.Broken(); err != nil {
			f.log("broken session not marked", &failure{cause: err})
		}
	default:
		return false
	}
	t.claim.Release()
	claim, err := f.m.sessions.Acquire(f.r.Context(), want)
	if err != nil {
		f.log("no other session to be had", &failure{cause: err})
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
		f.log("bids not read, so no failover", &failure{cause: err})
	}
	for _, b := range bids {
		if !strings.EqualFold(b.Provider, t.claim.Provider()) {
			return true
		}
	}
	return false
}

func (f *forwarding) log(what string, e *failure) {
	f.m.log.WarnContext(f.r.Context(), what, "session_id", f.ride.claim.SessionID(), "model_id", f.ride.claim.ModelID(),
		"request_id", clipped(f.request.RequestID), "reason", e.Message, "error", e.cause)
}

// passed are the headers of an answer that are the client's business.
var passed = []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Cache-Control", "X-Request-Id"}

// pass hands a good answer on, each piece as it comes.
func (f *forwarding) pass(ctx context.Context, resp *http.Response) {
	h := f.w.Header()
	for _, name := range passed {
		if v := resp.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	if h.Get("X-Request-Id") == "" {
		h.Set("X-Request-Id", f.request.RequestID)
	}
	stream := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if stream {
		h.Del("Content-Length") // an error may follow
		h.Set("X-Accel-Buffering", "no")
	}
	f.w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(f.w)
	piece := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(piece)
		if n > 0 {
			if _, err := f.w.Write(piece[:n]); err != nil {
				return // the client has gone
			}
			if stream {
				_ = out.Flush()
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			f.broken(ctx, stream, err)
			return
		}
	}
}

// broken ends an answer that has begun: a stream with a last word, anything
// else by cutting the connection, so that nobody takes half of it for all.
func (f *forwarding) broken(ctx context.Context, stream bool, err error) {
	if f.r.Context().Err() != nil {
		return
	}
	f.m.log.WarnContext(f.r.Context(), "the answer broke off", "request_id", clipped(f.request.RequestID),
		"error", errors.Join(err, context.Cause(ctx)))
	if !stream {
		panic(http.ErrAbortHandler)
	}
	e := newAPIError(http.StatusBadGateway, typeUpstream, "stream_interrupted", "The provider's answer broke off.", nil)
	_, _ = f.w.Write(bytes.Join([][]byte{[]byte("\n\ndata: "), e.json(), []byte("\n\n")}, nil))
	_ = http.NewResponseController(f.w).Flush()
}
