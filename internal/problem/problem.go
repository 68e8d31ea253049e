// Package problem answers HTTP requests with errors as application/problem+json
// (RFC 9457), and decodes JSON bodies strictly.
//
// A handler is a function that returns an error. A *Problem is what the client
// sees; any other error is logged, and the client sees a 500 without details:
//
//	mux.Handle("PUT /settings", problem.Handler(logger, func(w http.ResponseWriter, r *http.Request) error {
//		var body struct {
//			IsEnabled bool `json:"is_enabled"`
//		}
//		if err := problem.Decode(r, 4<<10, &body); err != nil {
//			return err
//		}
//		return problem.WriteJSON(w, http.StatusOK, body)
//	}))
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
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

// WithCause returns a copy with a cause, which is logged and never sent.
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

// Handler turns the error that serve returns into the response: a *Problem in
// its chain is sent as it is, an exceeded deadline and any error after the
// client has left become 503, any other error 500. Errors of 500 and above, and
// those with a cause, are logged with the request's X-Request-Id; a nil logger
// discards them. Serve must not return an error after it has begun to write the
// response; it may set headers before.
func Handler(logger *slog.Logger, serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			p := problemFor(r, err)
			logError(logger, r, p.Status, err)
			p.write(w)
		}
	})
}

func problemFor(r *http.Request, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if r.Context().Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return New(http.StatusServiceUnavailable, "")
	}
	return New(http.StatusInternalServerError, "")
}

// logError leaves the path out: it may contain a user's id.
func logError(logger *slog.Logger, r *http.Request, status int, err error) {
	level := slog.LevelError
	switch {
	case errors.Is(r.Context().Err(), context.Canceled): // the client has left
		level = slog.LevelDebug
	case status < http.StatusInternalServerError:
		if p, ok := errors.AsType[*Problem](err); ok && p.cause == nil {
			return
		}
		level = slog.LevelWarn
	}
	logger.LogAttrs(r.Context(), level, "request failed", slog.String("method", r.Method), slog.String("route", r.Pattern),
		slog.Int("status", status), slog.String("request_id", text.Truncate(r.Header.Get("X-Request-Id"), 128)), slog.Any("error", err))
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
