package proxyrouter

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Remedy is what can help after a failed chat response, before its first byte
// has reached the client.
type Remedy int

const (
	// RemedyNone passes the response on: the same request would fail again.
	RemedyNone Remedy = iota
	// RemedyRenew takes another session of the same model: this one has ended or
	// is unknown to the node.
	RemedyRenew
	// RemedyFailover takes a session with another provider, if the model has more
	// than one rated bid: this provider failed.
	RemedyFailover
)

// String returns the remedy's name.
func (r Remedy) String() string {
	return [...]string{"none", "renew", "failover"}[r]
}

// Classify classifies a failed response, one with a status of 300 or more, by its
// status and the first kilobytes of its body. Of a model's own error
// (providerModelError) only the status counts, because its text may say anything.
//
// A 401 or 403 of the node concerns the gateway's own credentials, so it becomes
// a 502 like the provider's 401, 403 and 404: no end user can fix them.
func Classify(status int, body []byte) ChatError {
	var wire struct {
		ProviderModelError json.RawMessage `json:"providerModelError"`
		StatusCode         int             `json:"statusCode"`
	}
	if json.Unmarshal(body, &wire) == nil && len(wire.ProviderModelError) > 0 && string(wire.ProviderModelError) != "null" {
		return classifyProvider(status, wire.StatusCode, wire.ProviderModelError)
	}

	message := errorText(body)
	text := strings.ToLower(message)
	e := ChatError{Status: status, Message: redactor{}.clean(message)}
	if status < 400 || status == http.StatusUnauthorized || status == http.StatusForbidden {
		e.Status = http.StatusBadGateway
		return e
	}
	switch {
	case containsAny(text, finalTexts):
	case strings.Contains(text, "session expired"):
		e.Remedy = RemedyRenew
	case strings.Contains(text, notFoundText):
		e.Remedy, e.Missing = RemedyRenew, true
	case status >= 500 || status == http.StatusTooManyRequests:
		e.Remedy = RemedyFailover
	}
	return e
}

// classifyProvider classifies a model's own error. Newer nodes send the model's
// status, in the body and as their own; older ones send 400 for all of them.
func classifyProvider(status, modelStatus int, modelError json.RawMessage) ChatError {
	e := ChatError{Status: status, Message: redactor{}.clean(errorText(modelError))}
	switch {
	case modelStatus >= 400 && modelStatus <= 599:
		e.Status = modelStatus
	case status < 400:
		e.Status = http.StatusBadGateway
	}
	hidden := modelStatus == 0 && status == http.StatusBadRequest
	switch {
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status == http.StatusNotFound:
		e.Remedy, e.Status = RemedyFailover, http.StatusBadGateway
	case hidden, e.Status >= 500, e.Status == http.StatusTooManyRequests:
		e.Remedy = RemedyFailover
	}
	return e
}
