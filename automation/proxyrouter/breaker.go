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

func (c *Client) newBreaker() *gobreaker.CircuitBreaker[response] {
	return gobreaker.NewCircuitBreaker[response](gobreaker.Settings{
		Timeout: c.opts.BreakerPause,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return n.ConsecutiveFailures >= breakerFailures
		},
		// A response of any status is no error here, and a caller that gave up
		// says nothing about the node.
		IsExcluded: func(err error) bool {
			failed, ok := errors.AsType[*exchangeError](err)
			return ok && failed.byCaller
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				at := c.opts.Now().Add(c.opts.BreakerPause)
				c.retryAt.Store(&at)
				c.opts.Logger.Warn("node does not answer, failing calls at once", "until", at)
			case gobreaker.StateClosed:
				c.opts.Logger.Info("node answers again")
			}
		},
	})
}

// throughBreaker sends a call through the breaker. After a pause a quick read
// goes first and finds out whether the node is back: an open in its place would
// make every other call wait for minutes.
func (c *Client) throughBreaker(ctx context.Context, k call) (response, error) {
	if c.breaker.State() == gobreaker.StateHalfOpen {
		probe := c.readCall(opWallet, "/wallet")
		if _, err := c.breaker.Execute(func() (response, error) { return c.send(ctx, probe) }); err != nil {
			return response{}, c.transportError(k.op, &exchangeError{cause: c.breakerOpen(err), byCaller: ctx.Err() != nil})
		}
	}
	resp, err := c.breaker.Execute(func() (response, error) { return c.send(ctx, k) })
	if err != nil {
		failed, ok := errors.AsType[*exchangeError](err)
		if !ok {
			failed = &exchangeError{cause: c.breakerOpen(err)}
		}
		return resp, c.transportError(k.op, failed)
	}
	return resp, nil
}

// breakerOpen returns the error for a call that the breaker rejected; other
// errors it returns unchanged.
func (c *Client) breakerOpen(err error) error {
	if !errors.Is(err, gobreaker.ErrOpenState) && !errors.Is(err, gobreaker.ErrTooManyRequests) {
		return err
	}
	at := c.opts.Now()
	if p := c.retryAt.Load(); p != nil && p.After(at) {
		at = *p
	}
	return fmt.Errorf("it did not answer the last calls; the next try is at %s", at.UTC().Format(time.RFC3339))
}

// authFailure is a 401, which concerns every call, or a 403, which concerns one operation.
type authFailure struct {
	op     string
	status int
	at     time.Time
}

// forbiddenFor is how long a 403 counts: nothing but the same operation can tell
// that the node permits it by now, and a replica that is not ready may get none.
const forbiddenFor = time.Minute

func (c *Client) noteAuth(op string, status int) {
	was := c.authFailure.Load()
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		c.authFailure.Store(&authFailure{op, status, c.opts.Now()})
	case status == 0, status > http.StatusInternalServerError:
		// No response, or one of a proxy before the node: it says nothing about the credentials.
	case was != nil && (was.status == http.StatusUnauthorized || was.op == op):
		c.authFailure.Store(nil)
	}
}

// noteDial counts a request that did not pass the breaker: a chat that got a
// response, or one that got no connection. Others say nothing about the node.
func (c *Client) noteDial(failed *exchangeError) {
	var err error
	if failed != nil {
		if failed.connected {
			return
		}
		err = failed
	}
	// A breaker that is open does not count it, and that is an error, too.
	_, _ = c.breaker.Execute(func() (response, error) { return response{}, err })
}

// Ready reports, from the last calls and without I/O, whether the node answers
// (else [session.ErrUnavailable]) and accepts the credentials (else
// [session.ErrUnauthorized]). It returns nil before the first call. Once the
// breaker's pause is over only the next call can tell: while Run makes such
// calls, Ready waits for it, and otherwise it returns nil. A 401 counts until the
// node accepts the credentials, a 403 for a minute.
func (c *Client) Ready() error {
	state := c.breaker.State()
	if state == gobreaker.StateOpen || (state == gobreaker.StateHalfOpen && c.watched.Load()) {
		return c.transportError(opReady, &exchangeError{cause: c.breakerOpen(gobreaker.ErrOpenState)})
	}
	f := c.authFailure.Load()
	if f != nil && (f.status == http.StatusUnauthorized || c.opts.Now().Sub(f.at) < forbiddenFor) {
		return fmt.Errorf("proxyrouter: %s: %w: %d on %q; check the user name, the password and the user's rights",
			opReady, session.ErrUnauthorized, f.status, f.op)
	}
	return nil
}
