// Package problem answers HTTP requests with errors as application/problem+json
// (RFC 9457), and decodes JSON bodies strictly.
//
// What serves a request returns an error, which [Respond] answers: a *Problem is
// what the client sees; of any other error the client sees a 500 without details.
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
	Type   string       `json:"type,omitempty"` // a URI; empty means about:blank, nothing beyond the status
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"` // what to do about it
	Errors []FieldError `json:"errors,omitempty"`

	cause error
}

// FieldError is what is wrong with one field of the body.
type FieldError struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// New returns a problem with the status' own title.
func New(status int, detail string) *Problem {
	return &Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

// Invalid returns a 400 that names fields.
func Invalid(fields ...FieldError) *Problem {
	p := New(http.StatusBadRequest, "Some fields are not as they should be.")
	p.Errors = fields
	return p
}

// WithCause returns a copy with a cause, which is for logs and never sent.
func (p *Problem) WithCause(cause error) *Problem {
	with := *p
	with.cause = cause
	return &with
}

// Error includes the cause: it is for logs.
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

// Respond answers with an error: a *Problem in its chain is sent as it is, an
// exceeded deadline and any error after the client has left become 503, any other
// error 500. Nothing of the response may have been written but headers.
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
	body, _ := json.Marshal(p) // strings and a number: it cannot fail
	writeBody(w, p.Status, "application/problem+json", body)
}

// WriteJSON sends v. It encodes first: after an error nothing has been sent.
// Responses are about one user, so caches must not store them unless a
// Cache-Control has been set.
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
	_, _ = w.Write(body) // the client may have left
}
