package chat

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// remedy does what can help against a failure, and reports whether to send the
// request once more: after each remedy once. A model's own words never cost a
// session.
func (f *forwarding) remedy(e *failure) bool {
	switch {
	case f.r.Context().Err() != nil:
		return false
	case e.answer.cause == outcome.Session:
		return f.remedySession(e)
	case e.answer.cause == outcome.Provider && !e.final:
		return f.remedyProvider(e)
	}
	return false
}

// remedyProvider takes a session of another provider, an open one before a paid
// one. The failing one stays in service: one failure is no verdict, and only
// the chain can show a session broken.
func (f *forwarding) remedyProvider(e *failure) bool {
	if f.claim == nil {
		return false
	}
	f.reportFailure()
	if f.replaced || f.clientSession != "" || !f.hasAlternative() {
		return false
	}
	f.warn("provider failed, taking another", e.answer)
	return f.replace(session.Replacement{AnotherProvider: true})
}

// reportFailure notes that the session's provider failed for this user.
func (f *forwarding) reportFailure() {
	if err := f.claim.ReportFailure(); err != nil {
		f.warn("provider's failure not noted", err)
	}
}

// remedySession asks the chain, for nothing, before it believes that a session
// has ended.
func (f *forwarding) remedySession(e *failure) bool {
	if f.claim == nil {
		e.answer = sessionGone(e)
		return false
	}
	ended := f.claim.Verify(f.r.Context())
	switch {
	case ended == nil:
		return f.initiate(e)
	case !errors.Is(ended, session.ErrEnded):
		f.warn("session not verified", ended)
		return false
	}
	f.warn("session ended on the chain", fmt.Errorf("%w: %w", ended, e.answer))
	if f.clientSession != "" {
		f.markExpired()
		e.answer = sessionGone(e)
		return false
	}
	f.ended = true
	if f.replaced || !f.replace(session.Replacement{}) {
		f.markExpired()
		return false
	}
	return true
}

// markExpired takes the session out of service, which the chain says has ended.
func (f *forwarding) markExpired() {
	if err := f.claim.MarkExpired(); err != nil {
		f.warn("ended session not marked", err)
	}
}

// initiate makes the node and the provider know a session again that is open on
// the chain, which costs nothing. Where the provider insists that it has ended,
// the session is worth nothing to the request.
func (f *forwarding) initiate(e *failure) bool {
	if !f.initiated {
		f.initiated = true
		err := f.Node.InitiateSession(f.r.Context(), f.claim.SessionID())
		if err == nil {
			f.warn("session initiated again", e.answer)
			return true
		}
		f.warn("session not initiated again", err)
	}
	if f.clientSession != "" {
		e.answer = sessionGone(e)
		return false
	}
	if !e.expired {
		// The node says this of all that it cannot read from the chain, and then
		// a session more would not be known either.
		return false
	}
	f.reportFailure()
	return !f.replaced && f.replace(session.Replacement{AnotherProvider: f.hasAlternative()})
}

// replace claims another session before the present one is let go; the first
// error stands where none can be had.
func (f *forwarding) replace(r session.Replacement) bool {
	f.replaced = true
	claim, err := f.Sessions.Replace(f.r.Context(), f.claim, r)
	if err != nil {
		f.warn("no other session to be had", err)
		return false
	}
	if f.ended {
		f.markExpired()
	}
	f.release()
	f.claim, f.busy, f.ended = claim, false, false
	return true
}

// sessionGone is the answer to a client whose own session is none.
func sessionGone(e *failure) *apiError {
	if e.expired {
		return clientError(outcome.CodeSessionEnded, "The session has ended. Leave session_id out to get another.", e.answer.err)
	}
	return clientError(outcome.CodeSessionNotFound, "There is no such session.", e.answer.err)
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
