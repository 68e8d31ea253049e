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

// remedy tries to remove the cause of a failure, and reports whether to send the
// request again. Each remedy is tried at most once. An error of the model itself
// never costs a session.
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

// remedyProvider switches to a session of another provider: an open one if there
// is any, otherwise a new one. The failing session stays in service: one failure
// proves nothing, and only the chain shows whether a session has ended.
func (f *forwarding) remedyProvider(e *failure) bool {
	if f.claim == nil {
		return false
	}
	f.reportFailure()
	if f.replaced || f.clientSession != "" || !f.hasAlternative() {
		return false
	}
	f.warn("provider failed, switching to another", e.answer)
	return f.replace(session.Replacement{AnotherProvider: true}, false)
}

// reportFailure records that the session's provider failed for this user.
func (f *forwarding) reportFailure() {
	if err := f.claim.ReportFailure(); err != nil {
		f.warn("provider's failure not recorded", err)
	}
}

// remedySession asks the chain, at no cost, whether the session has ended. It
// replaces a session that has ended, and initiates one that has not.
func (f *forwarding) remedySession(e *failure) bool {
	if f.claim == nil {
		e.answer = sessionGone(e)
		return false
	}
	err := f.claim.Verify(f.r.Context())
	switch {
	case err == nil: // it has not ended
		return f.initiate(e)
	case !errors.Is(err, session.ErrEnded):
		f.warn("session not verified", err)
		return false
	}
	f.warn("session ended on the chain", fmt.Errorf("%w: %w", err, e.answer))
	if f.clientSession != "" {
		f.markExpired()
		e.answer = sessionGone(e)
		return false
	}
	if f.replaced || !f.replace(session.Replacement{}, true) {
		f.markExpired()
		return false
	}
	return true
}

// markExpired takes a session that has ended on the chain out of service.
func (f *forwarding) markExpired() {
	if err := f.claim.MarkExpired(); err != nil {
		f.warn("ended session not taken out of service", err)
	}
}

// initiate makes the node and the provider recognize a session again that is
// open on the chain, which costs nothing. If the provider still says that it has
// ended, the request needs another session.
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
		// The node also answers this while it cannot read the chain. Then it would
		// not recognize another session either.
		return false
	}
	f.reportFailure()
	return !f.replaced && f.replace(session.Replacement{AnotherProvider: f.hasAlternative()}, false)
}

// replace claims another session and then releases the current one, which it
// first takes out of service if it has ended. It returns false if there is no
// other; the client then gets the error that led here.
func (f *forwarding) replace(r session.Replacement, hasEnded bool) bool {
	f.replaced = true
	claim, err := f.Sessions.Replace(f.r.Context(), f.claim, r)
	if err != nil {
		f.warn("no other session available", err)
		return false
	}
	if hasEnded {
		f.markExpired()
	}
	f.release()
	f.claim, f.busy = claim, false
	return true
}

// sessionGone is the answer to a client that names a session which has ended or
// does not exist.
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
		f.warn("bids not read, so no other provider is tried", err)
	}
	return slices.ContainsFunc(bids, func(b proxyrouter.Bid) bool { return !strings.EqualFold(b.Provider, f.claim.Provider()) })
}
