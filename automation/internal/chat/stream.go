package chat

import (
	"context"
	"errors"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// nodeContext returns the context of the request to the node. It ends with the
// session's lease and not with the client's request: the node continues to work
// after a client has left, and must be read to the end of its answer.
func (f *forwarding) nodeContext() (context.Context, context.CancelCauseFunc) {
	lease := context.WithoutCancel(f.r.Context())
	if f.claim != nil {
		lease = f.claim.LeaseContext()
	}
	return context.WithCancelCause(lease)
}

// releaser returns the function with which the relay releases the session. It is
// bound to the current claim, because a remedy can replace f.claim.
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
		return outcome.Outcome{}, &failure{answer: failed.answer, header: failed.header} // no remedy works without a claim
	}
	return outcome.Outcome{Cause: result.Failure.Cause, Code: result.Failure.Code, Err: result.Failure.Err}, nil
}

// truncated converts the failure of an answer that is not complete.
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
		message = "The gateway ended the answer: it took too long, or the gateway is stopping."
	case outcome.Database:
		message = "The session was lost; send the request again."
	}
	return &failure{answer: newError(e.Cause, e.Code, message, e.Err)}
}

// abandoned is the end of a call whose context ended before the node answered.
func (f *forwarding) abandoned(err error) (outcome.Outcome, *failure) {
	f.claim = nil // the relay releases it when the node is done
	if errors.Is(err, context.Canceled) {
		return clientLeft(), nil
	}
	f.relayed = true
	return outcome.Outcome{}, &failure{answer: unavailable(outcome.Host, "The model did not answer within the gateway's time limit for the request.", retrySoon, err)}
}

func clientLeft() outcome.Outcome {
	return outcome.Outcome{Cause: outcome.ClientLeft, Code: outcome.CodeClientLeft}
}
