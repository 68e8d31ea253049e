package chat

import (
	"cmp"
	"context"
	"errors"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/reqbody"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// admission is what has been decided about a call.
type admission struct {
	route route
	user  identity.User // empty if unknown
	arm   string        // see outcome.Outcome
	skip  outcome.Code  // why automation does not act on the call; empty if it does

	clientSession  session.ID      // the session that the client named; the call uses no other
	sessionRequest session.Request // for a call without a clientSession
	model          mapping.Model
	body           *reqbody.Body  // nil until openBody
	claim          *session.Claim // nil until acquired
	busy           bool           // the node may still be working for the call
}

// admit decides whether automation acts on the request of a known user, and sets
// c.skip if it does not. It does not read the body.
func (c *call) admit() error {
	if !c.Enabled {
		c.skip = outcome.SkipMasterOff
		return nil
	}
	d := c.Decide(c.user.ID)
	c.arm = armOf(d)
	if !d.On {
		c.skip = outcome.SkipNotIn
		return nil
	}
	if c.namesSession() {
		return nil // the user's settings do not matter
	}
	chosen, err := c.Settings.GetCached(c.r.Context(), c.user.ID)
	if err != nil { // the user may have opted out
		return unavailable(outcome.Database, "Your settings cannot be read at the moment.", retrySoon, err)
	}
	if !chosen.IsEnabled {
		c.skip = outcome.SkipOptedOut
		return nil
	}
	c.sessionRequest = session.Request{UserID: c.user.ID, Duration: chosen.SessionDuration}
	return nil
}

// armOf returns the rollout's arm that a decision belongs to, or "" for neither.
func armOf(d flags.Decision) string {
	if arm, ok := rollout.ArmOf(d); ok {
		return arm.String()
	}
	return ""
}

// namesSession reports whether the client brings a session of its own.
func (c *call) namesSession() bool { return len(c.r.Header.Values(headerSession)) > 0 }

// useClientSession makes the call use the session that the client names. It
// does so whatever the flag says: only its own user may use a managed session.
func (c *call) useClientSession() error {
	values := c.r.Header.Values(headerSession)
	if len(values) > 1 { // the node could use another one than is checked here
		return clientError(outcome.CodeInvalidSession, "Send one session_id.", nil)
	}
	id, err := session.ParseID(values[0])
	if err != nil {
		return clientError(outcome.CodeInvalidSession, "The header session_id must be the id of a session: 0x and 64 hex digits.", err)
	}
	c.clientSession = id
	return nil
}

// resolve finds the model's name in the body and resolves it.
func (c *call) resolve() error {
	if enc := c.r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return clientError(outcome.CodeUnsupportedMedia, "Send the request's body without Content-Encoding.", nil)
	}
	name, err := c.openBody().Model()
	if err != nil {
		return bodyError(err, c.MaxBodyBytes)
	}
	c.model, err = c.Models.Resolve(name, c.route.kind)
	if err != nil {
		return modelError(err)
	}
	c.sessionRequest.ModelID = c.model.ID
	return nil
}

// acquire claims the session of an admitted call.
func (c *call) acquire(ctx context.Context) (err error) {
	if c.clientSession != "" {
		return c.acquireClientSession(ctx)
	}
	if c.claim, err = c.Sessions.Acquire(ctx, c.sessionRequest); err != nil {
		return sessionError(err)
	}
	return nil
}

// acquireClientSession claims the session that the client names if the module
// manages it. Automation does not act on a request with any other session.
func (c *call) acquireClientSession(ctx context.Context) error {
	claim, err := c.Sessions.AcquireSession(ctx, c.user.ID, c.clientSession)
	if err == nil && c.user.ID == "" {
		claim.Release()
		err = session.ErrNotYours // a session that all users share is still for known users only
	}
	if err == nil {
		c.claim, c.skip = claim, ""
		return nil
	}
	if errors.Is(err, session.ErrUnmanaged) {
		c.skip = cmp.Or(c.skip, outcome.SkipOwnSession)
		return nil
	}
	refusal := sessionError(err)
	if !c.Enabled && (refusal.cause == outcome.Database || refusal.cause == outcome.Host) {
		// A module that is switched off blocks no request, even while it cannot
		// look up whose session this is.
		return nil
	}
	if refusal.cause == outcome.Client {
		c.skip = "" // automation refuses the request, which counts as acting on it
	}
	return refusal
}

// openBody returns the request's body. It returns the same Body each time, which
// keeps what has been read to find the model.
func (c *call) openBody() *reqbody.Body {
	if c.body == nil {
		c.body = reqbody.New(c.w, c.r, reqbody.Options{MaxBytes: c.MaxBodyBytes, Budget: c.bodies})
	}
	return c.body
}

// release releases the call's session, if it still has one.
func (c *call) release() { releaseClaim(c.claim, c.busy) }

// releaseClaim releases a claim, if there is one. The session cools down if the
// node may still be busy with it.
func releaseClaim(claim *session.Claim, busy bool) {
	switch {
	case claim == nil:
	case busy:
		claim.ReleaseBusy()
	default:
		claim.Release()
	}
}
