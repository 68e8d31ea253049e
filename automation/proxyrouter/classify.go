package proxyrouter

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// ChatError is a failed response to a forwarded request. Its texts are redacted
// for clients.
type ChatError struct {
	// Cause is one of:
	//   - [outcome.Client]: the node refused the request itself;
	//   - [outcome.Session]: the session has ended, or is unknown;
	//   - [outcome.Provider]: the provider failed, or the way to it;
	//   - [outcome.Model]: the model's backend answered with an error;
	//   - [outcome.Node]: the node refused the gateway's credentials, or what
	//     answered is not a node.
	Cause outcome.Cause

	// Expired reports, for [outcome.Session], that the session has expired at its
	// provider. If it is false, the node or the provider does not know the
	// session. Lost storage or a failure of the chain's endpoint can cause that,
	// too, so read the session with GetSession.
	Expired bool

	// Final reports, for [outcome.Provider], that the request would fail on
	// another session, too.
	Final bool

	// Status is the HTTP status for the client if the request finally fails. For
	// [outcome.Model] and [outcome.Client] it is the model's or the node's own,
	// otherwise 502, 503 or 504.
	Status int

	// Message, Code, Param and Type are the fields of an error in the OpenAI
	// format. All but Message may be empty. Message has at most 300 bytes, the
	// others 64.
	Message, Code, Param, Type string

	// RetryAfter is how long the response says to wait, from 0 to 24 hours.
	RetryAfter time.Duration
}

// Texts of the node, in lower case. Its statuses do not distinguish these cases.
var (
	unknownTexts = []string{notFoundText, "provider not found", "user not found"}
	// finalTexts are failures that a retry cannot fix.
	finalTexts = []string{
		"llm tee verification failed", "p-node tee attestation failed",
		"request cancelled while waiting in queue",
	}
	timeoutTexts   = []string{"i/o timeout", "deadline exceeded", "timed out"}
	rateLimitTexts = []string{"rate limit", "rate_limit", "too many requests", "quota"}
	capacityTexts  = []string{"capacity", "overloaded", "unavailable", "busy"}
)

// Messages for clients in place of the node's text.
const (
	refusedMessage  = "The Morpheus node refused the gateway's credentials."
	redirectMessage = "Something other than a Morpheus node answered at the node's address."
	noMessage       = "The Morpheus node answered with an error."
)

// Classify classifies a failed response by its status and header and the first
// kilobytes of its body. It also classifies an error that a stream ended with in
// place of an event; status is then the 200 of the stream. The text of a model's
// own error never makes it an error of the session or the node.
func (c *Client) Classify(status int, header http.Header, body []byte) ChatError {
	var wire struct {
		ModelError json.RawMessage `json:"providerModelError"`
		StatusCode int             `json:"statusCode"`
	}
	var e ChatError
	if json.Unmarshal(body, &wire) == nil && len(wire.ModelError) > 0 && string(wire.ModelError) != "null" {
		e = classifyModel(status, wire.StatusCode, wire.ModelError)
	} else {
		e = classifyNode(status, body)
	}
	e.Message = cmp.Or(c.redact.public(e.Message, e.Cause == outcome.Model), noMessage)
	for _, field := range []*string{&e.Code, &e.Param, &e.Type} {
		*field = text.Truncate(c.redact.public(*field, false), maxField)
	}
	e.RetryAfter = c.retryAfter(header)
	return e
}

const maxField = 64

// classifyModel classifies an error of the model behind a provider. Newer nodes
// send the model's status, in the body and as their own. Older ones send 400 for
// every error, so only the text distinguishes a limit from the user's mistake.
func classifyModel(status, modelStatus int, raw json.RawMessage) ChatError {
	e := ChatError{Cause: outcome.Model}
	e.fill(raw)
	lower := strings.ToLower(e.Message + " " + e.Code + " " + e.Type)
	switch {
	case modelStatus >= 400 && modelStatus <= 599:
		e.Status = modelStatus
	case status < 400 || status > 599:
		e.Status = http.StatusBadGateway
	case status == http.StatusBadRequest && containsAny(lower, rateLimitTexts):
		e.Status = http.StatusTooManyRequests
	case status == http.StatusBadRequest && containsAny(lower, capacityTexts):
		e.Status = http.StatusServiceUnavailable
	default:
		e.Status = status
	}
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		// The provider's account at its backend is the cause, and no user can fix it.
		e.Cause, e.Status = outcome.Provider, http.StatusBadGateway
	}
	return e
}

// classifyNode classifies an error of the node itself or of the way to the provider.
func classifyNode(status int, body []byte) ChatError {
	var e ChatError
	e.fill(body)
	lower := strings.ToLower(e.Message)
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return ChatError{Cause: outcome.Node, Status: http.StatusServiceUnavailable, Message: refusedMessage}
	case status < 200, status >= 300 && status < 400, status > 599:
		return ChatError{Cause: outcome.Node, Status: http.StatusServiceUnavailable, Message: redirectMessage}
	case strings.Contains(lower, "session expired"):
		e.Cause, e.Expired, e.Status = outcome.Session, true, http.StatusServiceUnavailable
	case containsAny(lower, unknownTexts):
		e.Cause, e.Status = outcome.Session, http.StatusServiceUnavailable
	case status == http.StatusTooManyRequests:
		e.Cause, e.Status = outcome.Model, status
	case status >= 400 && status < 500:
		e.Cause, e.Status = outcome.Client, status
	default:
		e.Cause, e.Status = outcome.Provider, http.StatusBadGateway
		e.Final = containsAny(lower, finalTexts)
		if status == http.StatusGatewayTimeout || containsAny(lower, timeoutTexts) {
			e.Status = http.StatusGatewayTimeout
		}
	}
	return e
}

// fill sets Message, Code, Param and Type from raw, which is an OpenAI error object
// or a string. Either can be the member "error" of an object, and an object can be
// JSON inside a string. Providers wrap each other's errors, so fill unwraps up to
// eight layers.
func (e *ChatError) fill(raw []byte) {
	for range 8 {
		var object struct {
			Error   json.RawMessage `json:"error"`
			Message json.RawMessage `json:"message"`
			Code    any             `json:"code"`
			Param   any             `json:"param"`
			Type    any             `json:"type"`
		}
		var inner string
		switch {
		case json.Unmarshal(raw, &inner) == nil:
			e.Message = inner
			raw = []byte(inner)
			if start := strings.IndexByte(inner, '{'); start > 0 && json.Valid(raw[start:]) {
				raw = raw[start:] // such as: error, status code: 400, message: {…}
			}
			if len(raw) == 0 || raw[0] != '{' {
				return
			}
		case json.Unmarshal(raw, &object) != nil:
			if e.Message == "" {
				e.Message = string(raw)
			}
			return
		case isSet(object.Error):
			raw = object.Error
		default:
			e.Code, e.Param, e.Type = cmp.Or(scalar(object.Code), e.Code), cmp.Or(scalar(object.Param), e.Param), cmp.Or(scalar(object.Type), e.Type)
			if !isSet(object.Message) {
				if e.Message == "" {
					e.Message = string(raw)
				}
				return
			}
			raw = object.Message
		}
	}
}

func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// scalar returns a JSON string or number as text, and "" for anything else. Some
// backends send a number as code.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// maxRetryAfter bounds a wait, so that an absurd value does not overflow.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns the wait of a response: Retry-After-Ms in milliseconds, or
// else Retry-After in seconds or as a date.
func (c *Client) retryAfter(header http.Header) time.Duration {
	var wait time.Duration
	after := header.Get("Retry-After")
	if ms, err := strconv.ParseFloat(header.Get("Retry-After-Ms"), 64); err == nil {
		wait = time.Duration(min(ms, float64(maxRetryAfter/time.Millisecond)) * float64(time.Millisecond))
	} else if seconds, err := strconv.ParseFloat(after, 64); err == nil {
		wait = time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	} else if date, err := http.ParseTime(after); err == nil {
		wait = date.Sub(c.opts.Now())
	}
	return min(max(wait, 0), maxRetryAfter)
}
