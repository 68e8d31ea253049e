// Package problem is how our HTTP APIs say no: errors as application/problem+json
// (RFC 9457), and JSON bodies decoded so strictly that nothing is guessed.
//
// A handler is a function that returns an error. A *Problem says what the
// client sees; any other error stays inside, is logged, and the client sees a
// bare 500:
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
)

// Problem is an answer that is an error. All but the cause is public.
type Problem struct {
	Type   string       `json:"type,omitempty"` // a URI; empty means about:blank, nothing beyond the status
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail,omitempty"` // what to do about it
	Errors []FieldError `json:"errors,omitempty"`

	cause error
}

// FieldError is a complaint about one field of the body.
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

// Because returns a copy with a cause, which is logged and never sent.
func (p *Problem) Because(cause error) *Problem {
	with := *p
	with.cause = cause
	return &with
}

// Error has the cause in it: it is for logs.
func (p *Problem) Error() string {
	text := fmt.Sprintf("%d %s", p.Status, p.Title)
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	for _, f := range p.Errors {
		text += "; " + f.Field + ": " + f.Message
	}
	if p.cause != nil {
		text += ": " + p.cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

// Handler answers with what serve returns, if it is an error: a *Problem in
// its chain as it is; a deadline that passed, or anything after the client has
// gone, as 503; anything else as 500. What is 500 or more, or has a cause, goes
// to the logger with the request's X-Request-Id; nil discards. Serve must not
// return an error once it has begun to answer; headers may be set before.
func Handler(logger *slog.Logger, serve func(http.ResponseWriter, *http.Request) error) http.Handler {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := serve(w, r); err != nil {
			p := public(r, err)
			record(logger, r, p.Status, err)
			p.write(w)
		}
	})
}

func public(r *http.Request, err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	if r.Context().Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return New(http.StatusServiceUnavailable, "")
	}
	return New(http.StatusInternalServerError, "")
}

// record leaves the path out: it may hold a user's id.
func record(logger *slog.Logger, r *http.Request, status int, err error) {
	level := slog.LevelError
	switch {
	case errors.Is(r.Context().Err(), context.Canceled): // nobody waits for the answer
		level = slog.LevelDebug
	case status < http.StatusInternalServerError:
		if p, ok := errors.AsType[*Problem](err); ok && p.cause == nil {
			return
		}
		level = slog.LevelWarn
	}
	id := r.Header.Get("X-Request-Id")
	logger.LogAttrs(r.Context(), level, "request failed", slog.String("method", r.Method), slog.String("route", r.Pattern),
		slog.Int("status", status), slog.String("request_id", id[:min(len(id), 128)]), slog.Any("error", err))
}

func (p *Problem) write(w http.ResponseWriter) {
	body, _ := json.Marshal(p) // strings and a number: it cannot fail
	send(w, p.Status, "application/problem+json", body)
}

// WriteJSON answers with v. It encodes first: an error means that nothing has
// been sent. Answers are about one user, so they are not stored on the way
// unless a Cache-Control has been set.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("problem: write json(%T): %w", v, err)
	}
	send(w, status, "application/json", append(body, '\n'))
	return nil
}

func send(w http.ResponseWriter, status int, mediaType string, body []byte) {
	h := w.Header()
	if status >= http.StatusBadRequest || h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	h.Set("Content-Type", mediaType)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone needs no answer
}
