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
		// A response of any status is a success. A call that its caller ended
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

// throughBreaker sends a call through the breaker. Before the first call after the
// breaker's pause, it sends a quick read to find out whether the node is back. If
// an open had to find that out, all other calls would fail for minutes.
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

// breakerOpen replaces the breaker's error for a call that it rejected by one that
// says when the next try is due. It returns other errors unchanged.
func (c *Client) breakerOpen(err error) error {
	if !errors.Is(err, gobreaker.ErrOpenState) && !errors.Is(err, gobreaker.ErrTooManyRequests) {
		return err
	}
	at := c.opts.Now()
	if p := c.retryAt.Load(); p != nil && p.After(at) {
		at = *p
	}
	return fmt.Errorf("the node did not answer the last calls; the next try is at %s", at.UTC().Format(time.RFC3339))
}

// authFailure is a 401, which concerns every call, or a 403, which concerns one operation.
type authFailure struct {
	op     string
	status int
	at     time.Time
}

// forbiddenFor is how long a 403 counts. Only the same operation could show that
// the node permits it by now, and a replica that is not ready may get no requests
// that need it.
const forbiddenFor = time.Minute

// noteAuth notes from a call's status whether the node accepts the credentials.
// Status 0 means that there was no response.
func (c *Client) noteAuth(op string, status int) {
	last := c.authFailure.Load()
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		c.authFailure.Store(&authFailure{op, status, c.opts.Now()})
	case status == 0, status > http.StatusInternalServerError:
		// No response, or one of a proxy before the node: it says nothing about the credentials.
	case last != nil && (last.status == http.StatusUnauthorized || last.op == op):
		c.authFailure.Store(nil)
	}
}

// noteDial reports to the breaker a chat, which was not sent through it: as a
// success if it got a response (failed is nil), as a failure if it got no
// connection. Any other failure says nothing about the node and is not reported.
func (c *Client) noteDial(failed *exchangeError) {
	var err error
	if failed != nil {
		if failed.connected {
			return
		}
		err = failed
	}
	// Execute returns err, or an error of an open breaker, which does not count err.
	_, _ = c.breaker.Execute(func() (response, error) { return response{}, err })
}

// Ready reports, from the last calls and without I/O, whether the node answers
// (else [session.ErrUnavailable]) and accepts the credentials (else
// [session.ErrUnauthorized]). It returns nil before the first call. After the
// breaker's pause only the next call can show whether the node is back. Ready
// reports the node as unavailable until then if Run is running, which makes that
// call, and otherwise returns nil. A 401 counts until the node accepts the
// credentials, a 403 for a minute.
func (c *Client) Ready() error {
	state := c.breaker.State()
	if state == gobreaker.StateOpen || (state == gobreaker.StateHalfOpen && c.running.Load()) {
		return c.transportError(opReady, &exchangeError{cause: c.breakerOpen(gobreaker.ErrOpenState)})
	}
	f := c.authFailure.Load()
	if f != nil && (f.status == http.StatusUnauthorized || c.opts.Now().Sub(f.at) < forbiddenFor) {
		return fmt.Errorf("proxyrouter: %s: %w: %d on %q; check the user name, the password and the user's rights",
			opReady, session.ErrUnauthorized, f.status, f.op)
	}
	return nil
}
