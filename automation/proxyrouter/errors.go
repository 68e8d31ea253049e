package proxyrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// The names of the operations in errors and logs.
const (
	opOpen      = "open session"
	opClose     = "close session"
	opGet       = "get session"
	opSessions  = "list wallet sessions"
	opBids      = "rated bids"
	opModels    = "models"
	opInitiate  = "initiate session"
	opProviders = "providers"
	opHealth    = "health"
	opWallet    = "wallet"
	opChat      = "forward"
	opReady     = "ready"
)

// nodeError is the error of a call that the node refused or did not answer. It
// wraps only what is certain; the package's comment lists it.
type nodeError struct {
	op      string // the operation, such as "open session"
	status  int    // the HTTP status; 0 without a complete response
	message string // the node's text or the transport's: at most 300 bytes, redacted
	wraps   []error
}

func (e *nodeError) Error() string {
	if e.status == 0 {
		return fmt.Sprintf("proxyrouter: %s: no response: %s", e.op, e.message)
	}
	return fmt.Sprintf("proxyrouter: %s: node answered %d: %s", e.op, e.status, e.message)
}

func (e *nodeError) Unwrap() []error { return e.wraps }

// Texts of the node, in lower case. Its statuses do not distinguish these cases.
var (
	collisionTexts = []string{
		"nonce too low", "nonce too high", "replacement transaction underpriced",
		"transaction underpriced", "already known", "invalid nonce", "incorrect nonce",
	}
	// refusalTexts prove that an open failed before its transaction. The texts
	// about insufficient ETH or MOR prove nothing: they can come while an earlier
	// transaction of the same open is pending.
	refusalTexts = []string{
		"sessiontooshort", "no provider accepting session", "no bids available",
		"approve mor allowance failed", "failed to initiate session", "failed to parse token supply",
		"failed to parse token budget", "can't get model", "failed to get bid", "failed to get my address",
		"failed to get min stake", "low agent user allowance", "cannot get private key",
	}
)

const notFoundText = "session not found"

func containsAny(text string, substrings []string) bool {
	for _, s := range substrings {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// responseError is the only place where a response of the node becomes an error.
func (c *Client) responseError(op string, resp response) *nodeError {
	raw := errorText(resp.body)
	e := &nodeError{op: op, status: resp.status, message: c.redact.clean(raw)}
	if e.message == "" {
		e.message = strings.ToLower(http.StatusText(resp.status))
	}
	if resp.status/100 == 3 {
		e.message = "a redirect, which is not followed: set the URL to its target"
	}
	text := strings.ToLower(raw)
	switch {
	case resp.status == http.StatusUnauthorized, resp.status == http.StatusForbidden:
		e.wraps = append(e.wraps, session.ErrUnauthorized)
		if op == opOpen {
			e.wraps = append(e.wraps, session.ErrNotOpened)
		}
	case op == opOpen && (resp.status == http.StatusBadRequest || resp.status == http.StatusNotFound || resp.status == http.StatusMethodNotAllowed):
		e.wraps = append(e.wraps, session.ErrNotOpened)
	case (op == opOpen || op == opClose) && resp.status == http.StatusInternalServerError && containsAny(text, collisionTexts):
		// Checked before the refusals: a text may contain both, and nothing is certain after a collision.
		e.wraps = append(e.wraps, session.ErrWalletCollision)
	case op == opOpen && resp.status == http.StatusInternalServerError && containsAny(text, refusalTexts):
		e.wraps = append(e.wraps, session.ErrNotOpened)
	case op == opGet && strings.Contains(text, notFoundText):
		// Only for a read: a close fails with this text also when the RPC endpoint fails.
		e.wraps = append(e.wraps, session.ErrSessionNotFound)
	}
	return e
}

// transportError is the only place where a call without a complete response
// becomes an error.
func (c *Client) transportError(op string, failed *exchangeError) *nodeError {
	e := &nodeError{op: op, message: c.redact.clean(failed.cause.Error())}
	if failed.connected {
		e.message = "after the request was sent: " + e.message
	} else {
		e.wraps = append(e.wraps, session.ErrUnavailable)
	}
	for _, sentinel := range []error{context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(failed.cause, sentinel) {
			e.wraps = append(e.wraps, sentinel)
		}
	}
	return e
}

// exchangeError is the error of an exchange without a complete response.
type exchangeError struct {
	cause     error
	connected bool // the request may have been sent
	byCaller  bool // the caller's context ended it
}

func (e *exchangeError) Error() string { return e.cause.Error() }
func (e *exchangeError) Unwrap() error { return e.cause }

// malformed returns the error of a 2xx response that cannot be decoded. The
// outcome of an open is then unknown.
func (c *Client) malformed(op string, resp response, why error) *nodeError {
	return &nodeError{op: op, status: resp.status, message: c.redact.clean(why.Error())}
}

// errorText returns the error member of a body, or else the body.
func errorText(body []byte) string {
	var wire struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &wire) != nil || len(wire.Error) == 0 {
		return string(body)
	}
	var text string
	if json.Unmarshal(wire.Error, &text) == nil {
		return text
	}
	return string(wire.Error)
}
