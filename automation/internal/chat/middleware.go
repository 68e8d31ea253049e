package chat

import (
	"errors"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// Middleware passes requests to next. If automation acts on a request, it adds
// the header session_id.
func (s *Service) Middleware(next http.Handler) http.Handler {
	return s.handler(func(c *call) outcome.Outcome {
		defer c.release()
		err := c.admitBeforeHost()
		c.overhead = c.Now().Sub(c.startedAt)
		if err != nil {
			return c.writeError(err)
		}
		r := c.r
		if c.claim != nil {
			c.setSessionHeaders()
			r = r.WithContext(c.claim.Context()) // a copy: a handler must not change the request that it got
			if c.body != nil {
				r.Body = c.body.Reader()
			}
			r.Header = r.Header.Clone()
			r.Header.Set(headerSession, c.claim.SessionID())
		}
		// Until the handler returns, the node may be working on the request, even
		// if the handler panics or the client leaves.
		c.hosted, c.busy = true, true
		next.ServeHTTP(c.w, r)
		c.busy = c.r.Context().Err() != nil
		c.release()
		if c.r.Context().Err() != nil {
			return clientLeft()
		}
		if cause := policy.CauseOf(c.status); cause != outcome.None {
			return outcome.Outcome{Cause: cause, Code: outcome.CodeHandlerError}
		}
		return outcome.Outcome{Cause: outcome.None}
	})
}

// admitBeforeHost admits a request on its way to the host's handler. It does not
// refuse a request of an unknown user: that is up to the host.
func (c *call) admitBeforeHost() error {
	c.route = routeOf(c.r.URL.Path)
	if c.r.Method != http.MethodPost {
		c.skip = outcome.SkipMethod
		return nil
	}
	if !c.Enabled && !c.namesSession() {
		c.skip = outcome.SkipMasterOff
		return nil
	}
	user, err := c.Identify(c.r)
	switch {
	case errors.Is(err, identity.ErrUnavailable) && c.Enabled:
		return identityUnavailable(err)
	case err != nil:
		c.skip = outcome.SkipNobody
	default:
		c.user = user
		if err := c.admit(); err != nil {
			return err
		}
	}
	if c.namesSession() {
		return c.guardSession()
	}
	if c.skip != "" {
		return nil
	}
	if err := c.resolve(); err != nil {
		return err
	}
	return c.acquire(c.r.Context())
}

// guardSession claims the session that the client names if the module manages
// it. It refuses another user's session even if automation is skipped.
func (c *call) guardSession() error {
	if err := c.useClientSession(); err != nil {
		if c.skip != "" && len(c.r.Header.Values(headerSession)) == 1 {
			return nil // no managed session has a malformed id
		}
		return err
	}
	return c.acquire(c.r.Context())
}

// setSessionHeaders sets the headers that name the session and the model.
func (c *call) setSessionHeaders() {
	h := c.w.Header()
	h.Set(headerSessionUsed, c.claim.SessionID())
	if c.model.Name != "" {
		h.Set(headerModelUsed, escapeHeader(c.model.Name))
	}
}

// escapeHeader percent-encodes the bytes that a header's value must not contain.
func escapeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
