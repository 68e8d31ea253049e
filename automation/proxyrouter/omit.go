package proxyrouter

import (
	"context"
	"strings"
)

// IgnoresOmitProvider reports whether the node was seen to open a session with
// the very provider that it was told to omit, as versions of before July 2026
// do. On such a node a second open cannot help against a failing provider. It is
// forgotten when the node's health check reports another version.
func (c *Client) IgnoresOmitProvider() bool { return c.omitIgnoredBy.Load() != nil }

// checkOmitted reads an opened session and notes if the node ignored
// OmitProvider. The open has succeeded, so an error here is not the caller's.
func (c *Client) checkOmitted(ctx context.Context, id, omitted string) {
	s, err := c.GetSession(ctx, id)
	if err != nil || !strings.EqualFold(s.Provider, omitted) {
		return
	}
	version, _ := c.checkHealth(ctx) // empty if it cannot be read now
	c.omitIgnoredBy.Store(&version)
	c.opts.Logger.WarnContext(ctx, "node ignores omitProvider, update it", "version", version, "provider", omitted)
}

// noteVersion forgets what was learnt of another version.
func (c *Client) noteVersion(version string) {
	p := c.omitIgnoredBy.Load()
	switch {
	case p == nil, version == "", *p == version:
	case *p == "": // it was unknown until now
		c.omitIgnoredBy.CompareAndSwap(p, &version)
	default:
		c.omitIgnoredBy.CompareAndSwap(p, nil)
	}
}
