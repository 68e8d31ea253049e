package chat

import (
	"context"
	"errors"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// upstream is the context of the request to the node. It ends with the
// session's lease, not with the client's request: the node works on after a
// client has left, and has to be read to its end.
func (f *forwarding) upstream() (context.Context, context.CancelCauseFunc) {
	lease := context.WithoutCancel(f.r.Context())
	if f.claim != nil {
		lease = f.claim.LeaseContext()
	}
	return context.WithCancelCause(lease)
}

// releaser returns what the relay calls when the node is done with the request,
// or given up.
func (f *forwarding) releaser() func(drained bool) {
	claim := f.claim
	return func(drained bool) { releaseClaim(claim, !drained) }
}

// relay passes a good answer on to the client.
func (f *forwarding) relay(resp *http.Response, cancel context.CancelCauseFunc, release func(bool)) (outcome.Outcome, *failure) {
	var prepare func()
	if f.claim != nil {
		prepare = f.claim.PrepareRelease
	}
	result := f.answers.Copy(f.r.Context(), f.w, relay.Answer{Response: resp, Cancel: cancel, Release: release, PrepareRelease: prepare,
		Describe: func(e *relay.Failure) []byte {
			answer := f.truncated(resp, e).answer
			e.Cause, e.Code = answer.cause, answer.code
			return answer.json()
		}})
	switch {
	case result.Held:
		f.busy = !result.Drained
		return outcome.Outcome{}, f.truncated(resp, result.Failure)
	case result.Failure == nil:
		f.claim = nil
		return outcome.Outcome{Cause: outcome.None}, nil
	}
	f.claim, f.relayed, f.abort = nil, true, result.Abort
	if !result.Begun && result.Failure.Cause != outcome.ClientLeft {
		failed := f.truncated(resp, result.Failure)
		return outcome.Outcome{}, &failure{answer: failed.answer, header: failed.header} // without a session nothing helps
	}
	return outcome.Outcome{Cause: result.Failure.Cause, Code: result.Failure.Code, Err: result.Failure.Err}, nil
}

// truncated understands an answer that is not whole.
func (f *forwarding) truncated(resp *http.Response, e *relay.Failure) *failure {
	switch {
	case e.Body != nil:
		failed := f.responseError(resp.StatusCode, resp.Header, e.Body)
		failed.answer.err = errors.Join(e.Err, failed.answer.err)
		return failed
	case errors.Is(e.Err, session.ErrNotRunning):
		e.Cause = outcome.Host
	}
	message := "The provider's answer broke off."
	switch e.Cause {
	case outcome.Host:
		message = "The gateway ended the answer: its time is over, or it is stopping."
	case outcome.Database:
		message = "The session was lost; send the request again."
	}
	return &failure{answer: newError(e.Cause, e.Code, message, e.Err)}
}

// abandoned is the end of a call whose context ended before the node answered.
func (f *forwarding) abandoned(err error) (outcome.Outcome, *failure) {
	f.claim = nil // the relay's, which waits for the node
	if errors.Is(err, context.Canceled) {
		return clientLeft(), nil
	}
	f.relayed = true
	return outcome.Outcome{}, &failure{answer: unavailable(outcome.Host, "The gateway's time for the request was over before the model answered.", retrySoon, err)}
}

func clientLeft() outcome.Outcome {
	return outcome.Outcome{Cause: outcome.ClientLeft, Code: outcome.CodeClientLeft}
}
