package proxyrouter

import (
	"context"
	"net/http"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// With healthInterval between two checks, and healthRetry after a failed one, a
// node that dies while nobody calls it opens the breaker within half a minute.
const (
	healthInterval = 15 * time.Second
	healthRetry    = 5 * time.Second
)

// Run calls the node's health check after 15 seconds without another response, so
// that Ready notices a node that dies while nothing calls it. Run returns when ctx
// ends.
func (c *Client) Run(ctx context.Context) {
	c.running.Store(true)
	defer c.running.Store(false)
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		if f := c.authFailure.Load(); f != nil && f.status == http.StatusUnauthorized {
			// The health check needs no credentials, so another read tries them.
			_, _ = c.do(ctx, c.readCall(opWallet, "/wallet"))
			return healthInterval
		}
		if idle := c.opts.Now().Sub(time.Unix(0, c.lastContact.Load())); idle < healthInterval {
			return healthInterval - idle
		}
		if _, err := c.checkHealth(ctx); err != nil {
			return healthRetry
		}
		return healthInterval
	})
}

// checkHealth calls the health check through the breaker and returns the node's
// version. A node that reports itself degraded has answered, which is no error.
func (c *Client) checkHealth(ctx context.Context) (version string, err error) {
	k := c.readCall(opHealth, "/healthcheck")
	k.public = true
	resp, err := c.throughBreaker(ctx, k)
	if err != nil {
		return "", err
	}
	c.noteContact()
	var wire struct {
		Status  string `json:"status"`
		Version string `json:"version"`
	}
	if unmarshal(resp.body, &wire) != nil {
		return "", nil
	}
	if degraded := resp.status != http.StatusOK; c.degraded.Swap(degraded) != degraded {
		c.opts.Logger.WarnContext(ctx, "node's health changed", "status", wire.Status, "http_status", resp.status)
	}
	c.noteVersion(wire.Version)
	return wire.Version, nil
}

// noteContact notes that the node answered.
func (c *Client) noteContact() { c.lastContact.Store(c.opts.Now().UnixNano()) }
