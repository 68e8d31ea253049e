package proxyrouter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func (c *Client) newBreaker() *gobreaker.CircuitBreaker[answer] {
	return gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
		Timeout: c.opts.BreakerPause,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return int64(n.ConsecutiveFailures) >= int64(c.opts.BreakerFailures)
		},
		// An answer of any kind is no error here; a lost one tells nothing about
		// the node when our caller is the one who left.
		IsExcluded: func(err error) bool {
			lost, ok := errors.AsType[*lostError](err)
			return ok && lost.byCaller
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				at := c.opts.Now().Add(c.opts.BreakerPause)
				c.retryAt.Store(&at)
				c.opts.Logger.Warn("the node does not answer; calls fail at once", "until", at)
			case gobreaker.StateClosed:
				c.opts.Logger.Info("the node answers again")
			}
		},
	})
}

// guarded sends a call through the breaker. After a pause the first call is
// preceded by a quick read that tells whether the node is back: an open as the
// probe would keep everybody waiting for minutes.
func (c *Client) guarded(ctx context.Context, k call) (answer, error) {
	if c.breaker.State() == gobreaker.StateHalfOpen {
		probe := c.read(opWallet, "/wallet")
		if _, err := c.breaker.Execute(func() (answer, error) { return c.send(ctx, probe) }); err != nil {
			return answer{}, c.unanswered(k.op, &lostError{cause: c.away(err), byCaller: ctx.Err() != nil})
		}
	}
	a, err := c.breaker.Execute(func() (answer, error) { return c.send(ctx, k) })
	if err != nil {
		lost, ok := errors.AsType[*lostError](err)
		if !ok {
			lost = &lostError{cause: c.away(err)}
		}
		return a, c.unanswered(k.op, lost)
	}
	return a, nil
}

// away words a refusal of the breaker; other errors pass.
func (c *Client) away(err error) error {
	if !errors.Is(err, gobreaker.ErrOpenState) && !errors.Is(err, gobreaker.ErrTooManyRequests) {
		return err
	}
	at := c.opts.Now()
	if p := c.retryAt.Load(); p != nil && p.After(at) {
		at = *p
	}
	return fmt.Errorf("it did not answer the last calls; it is asked again at %s", at.UTC().Format(time.RFC3339))
}

// refusal is a 401, which concerns every call, or a 403, which concerns one.
type refusal struct {
	op     string
	status int
}

func (c *Client) remember(op string, status int) {
	was := c.refusal.Load()
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		c.refusal.Store(&refusal{op, status})
	case status == 0, status > http.StatusInternalServerError:
		// Nobody, or somebody in front of the node, who knows nothing of our credentials.
	case was != nil && (was.status == http.StatusUnauthorized || was.op == op):
		c.refusal.Store(nil)
	}
}

// Ready tells, from what the last calls met and without asking the node, whether
// it answers ([session.ErrUnavailable]) and takes our credentials
// ([session.ErrUnauthorized]). A client that has not called yet is ready, and so
// is one whose pause is over: only the next call can tell.
func (c *Client) Ready() error {
	if c.breaker.State() == gobreaker.StateOpen {
		return c.unanswered(opReady, &lostError{cause: c.away(gobreaker.ErrOpenState)})
	}
	if r := c.refusal.Load(); r != nil {
		return fmt.Errorf("proxyrouter: %s: %w: %d on %q; check the user name, the password and the user's rights",
			opReady, session.ErrUnauthorized, r.status, r.op)
	}
	return nil
}
