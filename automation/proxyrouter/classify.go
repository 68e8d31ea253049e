package proxyrouter

import (
	"encoding/json"
	"net/http"
	"strings"
)

// Remedy is what helps against a failed chat answer, before its first byte has
// reached the client.
type Remedy int

const (
	// RemedyNone hands the answer on: the same request would fail again.
	RemedyNone Remedy = iota
	// RemedyRenew takes another session of the same model: this one has ended or
	// is gone, whatever our records say.
	RemedyRenew
	// RemedyFailover takes a session with another provider, where the model has
	// more than one rated bid: this provider failed.
	RemedyFailover
)

// String names the remedy.
func (r Remedy) String() string {
	return [...]string{"none", "renew", "failover"}[r]
}

// ChatError is a failed answer to a forwarded request, understood.
type ChatError struct {
	Remedy  Remedy
	Missing bool   // with RemedyRenew: the node does not know the session at all
	Status  int    // what the gateway answers with where no remedy helped
	Message string // the node's words: bounded, without keys in URLs and addresses
}

// finalTexts name failures that a retry cannot mend, in lower case.
var finalTexts = []string{
	"llm tee verification failed", "p-node tee attestation failed",
	"request cancelled while waiting in queue",
}

// Classify reads a failed answer, one with a status of 300 or more; a few
// kilobytes of its body are enough. Of what a provider's model says itself
// (providerModelError) only the status counts: its text may say anything.
//
// A 401 or 403 of the node means the gateway's own credentials, so it becomes a
// 502 like the provider's 401, 403 and 404: no end user could do anything about them.
func Classify(status int, body []byte) ChatError {
	var shape struct {
		ProviderModelError json.RawMessage `json:"providerModelError"`
		StatusCode         int             `json:"statusCode"`
	}
	if json.Unmarshal(body, &shape) == nil && len(shape.ProviderModelError) > 0 && string(shape.ProviderModelError) != "null" {
		return classifyProvider(status, shape.StatusCode, shape.ProviderModelError)
	}

	words := errorText(body)
	text := strings.ToLower(words)
	e := ChatError{Status: status, Message: redactor{}.clean(words)}
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

// classifyProvider: newer nodes send the model's status, in the body and as
// their own; older ones a 400 that hides it.
func classifyProvider(status, told int, said json.RawMessage) ChatError {
	e := ChatError{Status: status, Message: redactor{}.clean(errorText(said))}
	switch {
	case told >= 400 && told <= 599:
		e.Status = told
	case status < 400:
		e.Status = http.StatusBadGateway
	}
	hidden := told == 0 && status == http.StatusBadRequest
	switch {
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status == http.StatusNotFound:
		e.Remedy, e.Status = RemedyFailover, http.StatusBadGateway
	case hidden, e.Status >= 500, e.Status == http.StatusTooManyRequests:
		e.Remedy = RemedyFailover
	}
	return e
}
