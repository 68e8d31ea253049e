package proxyrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// The operations, as errors and logs name them.
const (
	opOpen     = "open session"
	opClose    = "close session"
	opGet      = "get session"
	opSessions = "list wallet sessions"
	opBids     = "rated bids"
	opModels   = "models"
	opWallet   = "wallet"
	opHealth   = "health"
	opChat     = "forward"
	opReady    = "ready"
)

// NodeError is a call that the node refused, or did not answer. It wraps what is
// certain, and nothing else:
//
//   - [session.ErrUnavailable]: no connection came about, or the breaker is open;
//   - [session.ErrUnauthorized]: 401 or 403, on an open with [session.ErrNotOpened];
//   - [session.ErrNotOpened]: an open answered with 400, 404 or 405, or with a 500
//     that words a refusal;
//   - [session.ErrWalletCollision]: a 500 that tells of a nonce conflict;
//   - [session.ErrSessionNotFound]: a read that says so;
//   - [context.Canceled], [context.DeadlineExceeded]: where one of them ended the call.
type NodeError struct {
	Op      string // what was asked
	Status  int    // the HTTP status, or 0 when no answer came
	Message string // what the node said or how it failed: bounded, without secrets

	wraps []error
}

// Error names the operation and what came back.
func (e *NodeError) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("proxyrouter: %s: no answer: %s", e.Op, e.Message)
	}
	return fmt.Sprintf("proxyrouter: %s: node answered %d: %s", e.Op, e.Status, e.Message)
}

// Unwrap returns the sentinels that hold.
func (e *NodeError) Unwrap() []error { return e.wraps }

// What the node says, in lower case.
var (
	collisionTexts = []string{
		"nonce too low", "nonce too high", "replacement transaction underpriced",
		"transaction underpriced", "already known", "invalid nonce", "incorrect nonce",
	}
	refusalTexts = []string{
		"sessiontooshort", "no provider accepting session", "no bids available",
		"insufficient mor balance", "insufficient eth for gas",
	}
	closedTexts = []string{
		"sessionalreadyclosed", "session already closed", "session is already closed",
	}
)

const notFoundText = "session not found"

func containsAny(text string, wanted []string) bool {
	for _, w := range wanted {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

// answered is the one place where an answer of the node becomes an error.
func (c *Client) answered(op string, a answer) *NodeError {
	raw := errorText(a.body)
	e := &NodeError{Op: op, Status: a.status, Message: c.redact.clean(raw)}
	if e.Message == "" {
		e.Message = strings.ToLower(http.StatusText(a.status))
	}
	if a.status/100 == 3 {
		e.Message = "a redirect, which is not followed: set the URL to where it leads"
	}
	text := strings.ToLower(raw)
	switch {
	case a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		e.wraps = append(e.wraps, session.ErrUnauthorized)
		if op == opOpen {
			e.wraps = append(e.wraps, session.ErrNotOpened)
		}
	case op == opOpen && (a.status == http.StatusBadRequest || a.status == http.StatusNotFound || a.status == http.StatusMethodNotAllowed):
		e.wraps = append(e.wraps, session.ErrNotOpened)
	case (op == opOpen || op == opClose) && a.status == http.StatusInternalServerError && containsAny(text, collisionTexts):
		// Before the refusals: a text may tell of both, and only this one is checked against the chain.
		e.wraps = append(e.wraps, session.ErrWalletCollision)
	case op == opOpen && a.status == http.StatusInternalServerError && containsAny(text, refusalTexts):
		e.wraps = append(e.wraps, session.ErrNotOpened)
	case (op == opGet || op == opClose) && strings.Contains(text, notFoundText):
		e.wraps = append(e.wraps, session.ErrSessionNotFound)
	case op == opClose && containsAny(text, closedTexts):
		e.wraps = append(e.wraps, errAlreadyClosed)
	}
	return e
}

var errAlreadyClosed = errors.New("session already closed")

// unanswered is its twin for calls without an answer.
func (c *Client) unanswered(op string, lost *lostError) *NodeError {
	e := &NodeError{Op: op, Message: c.redact.clean(lost.cause.Error())}
	if lost.connected {
		e.Message = "the request was sent, then: " + e.Message
	} else {
		e.wraps = append(e.wraps, session.ErrUnavailable)
	}
	for _, ended := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(lost.cause, ended) {
			e.wraps = append(e.wraps, ended)
		}
	}
	return e
}

// lostError is an exchange that did not end with a whole answer.
type lostError struct {
	cause     error
	connected bool // so the request may have been sent
	byCaller  bool // the caller's context ended it
}

func (e *lostError) Error() string { return e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// malformed is an answer that was no refusal and makes no sense. For an open
// this is an unknown outcome.
func (c *Client) malformed(op string, a answer, why error) *NodeError {
	return &NodeError{Op: op, Status: a.status, Message: c.redact.clean(why.Error())}
}

// errorText finds the node's words: the error member, or the body as it is.
func errorText(body []byte) string {
	var shape struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &shape) != nil || len(shape.Error) == 0 {
		return string(body)
	}
	var text string
	if json.Unmarshal(shape.Error, &text) == nil {
		return text
	}
	return string(shape.Error)
}
