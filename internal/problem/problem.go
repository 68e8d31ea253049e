// Package problem answers HTTP requests with errors as application/problem+json
// (RFC 9457), and decodes JSON bodies strictly.
//
// A handler returns an error, and [Respond] sends it: a *Problem as it is, any other
// error as a 500 without details.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Problem is an error response. Everything but the cause is public.
type Problem struct {
	Type   string       `json:"type,omitempty"` // a URI; empty means about:blank: the status says it all
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"` // what to do about it
	Errors []FieldError `json:"errors,omitempty"`

	cause error
}

// FieldError is an error in one field of the body.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// New returns a problem whose title is the text of the status.
func New(status int, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

// Invalid returns a 400 that lists invalid fields.
func Invalid(fields ...FieldError) *Problem {
	p := New(http.StatusBadRequest, "Some fields are invalid.")
	p.Errors = fields
	return p
}

// WithCause returns a copy with a cause, which is logged but never sent.
func (p *Problem) WithCause(cause error) *Problem {
	with := *p
	with.cause = cause
	return &with
}

// Error includes the cause, so it must not be sent to a client.
func (p *Problem) Error() string {
	message := fmt.Sprintf("%d %s", p.Status, p.Title)
	if p.Detail != "" {
		message += ": " + p.Detail
	}
	for _, f := range p.Errors {
		message += "; " + f.Field + ": " + f.Message
	}
	if p.cause != nil {
		message += ": " + p.cause.Error()
	}
	return message
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

// Respond sends an error as the response: a *Problem in its chain as it is, an
// exceeded deadline or an error after the client has disconnected as 503, any other
// error as 500. Until then the handler may have set headers but written nothing.
func Respond(w http.ResponseWriter, r *http.Request, err error) {
	p, ok := errors.AsType[*Problem](err)
	switch {
	case ok:
	case r.Context().Err() != nil || errors.Is(err, context.DeadlineExceeded):
		p = New(http.StatusServiceUnavailable, "")
	default:
		p = New(http.StatusInternalServerError, "")
	}
	p.write(w)
}

func (p *Problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // cannot fail: strings and a number
	writeBody(w, p.Status, "application/problem+json", body)
}

// WriteJSON sends v as JSON. It encodes v first: after an error nothing has been sent.
// Responses are usually about one user, so caches must not store them unless the
// handler has set a Cache-Control.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("problem: write json(%T): %w", v, err)
	}
	writeBody(w, status, "application/json", append(body, '\n'))
	return nil
}

func writeBody(w http.ResponseWriter, status int, mediaType string, body []byte) {
	h := w.Header()
	if status >= http.StatusBadRequest || h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("Content-Type", mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails if the client has disconnected
}
