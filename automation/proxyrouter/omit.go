package proxyrouter

import (
	"context"
	"strings"
)

// IgnoresOmitProvider reports whether the node has opened a session with the
// provider that it was told to omit, as versions before July 2026 do. On such a
// node a second open may well choose the failing provider again. The report lasts
// until the node's health check returns another version.
func (c *Client) IgnoresOmitProvider() bool { return c.omitIgnoredBy.Load() != nil }

// checkOmitted reads an opened session and notes if the node ignored
// OmitProvider. It returns no error, because the open has succeeded.
func (c *Client) checkOmitted(ctx context.Context, id, omitted string) {
	s, err := c.GetSession(ctx, id)
	if err != nil || !strings.EqualFold(s.Provider, omitted) {
		return
	}
	version, _ := c.checkHealth(ctx) // empty if it cannot be read now
	c.omitIgnoredBy.Store(&version)
	c.opts.Logger.WarnContext(ctx, "node ignores omitProvider, update it", "version", version, "provider", omitted)
}

// noteVersion clears omitIgnoredBy if the node now has another version.
func (c *Client) noteVersion(version string) {
	p := c.omitIgnoredBy.Load()
	switch {
	case p == nil, version == "", *p == version:
	case *p == "": // the version was unknown until now
		c.omitIgnoredBy.CompareAndSwap(p, &version)
	default:
		c.omitIgnoredBy.CompareAndSwap(p, nil)
	}
}
