package problem_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

func ExampleHandler() {
	handler := problem.Handler(nil, func(http.ResponseWriter, *http.Request) error {
		return problem.Invalid(problem.FieldError{Field: "session_duration", Message: "must be at least 300"})
	})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/settings", nil))
	fmt.Println(w.Header().Get("Content-Type"))
	fmt.Println(w.Body)
	// Output:
	// application/problem+json
	// {"title":"Bad Request","status":400,"detail":"Some fields are not as they should be.","errors":[{"field":"session_duration","message":"must be at least 300"}]}
}

func TestHandler_SendsTheProblemAndLogsItsCause(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7: refused")
	away := problem.New(http.StatusServiceUnavailable, "Try again in a minute.")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		err  error
		body string
		log  string // level and more, or nothing
	}{
		"a problem": {
			err:  fmt.Errorf("wrapped: %w", problem.New(http.StatusNotFound, "There is no such flag.")),
			body: `{"title":"Not Found","status":404,"detail":"There is no such flag."}`,
		},
		"a problem with a cause": {
			err:  problem.New(http.StatusConflict, "").WithCause(secret),
			body: `{"title":"Conflict","status":409}`,
			log:  `level=WARN msg="request failed" method=GET route="GET /users/{id}" status=409 request_id=r-1 error="409 Conflict: dial tcp 10.0.0.7: refused"`,
		},
		"a problem of ours": {
			err:  away.WithCause(secret),
			body: `{"title":"Service Unavailable","status":503,"detail":"Try again in a minute."}`,
			log:  `level=ERROR msg="request failed" method=GET route="GET /users/{id}" status=503 request_id=r-1 error="503 Service Unavailable: Try again in a minute.: dial tcp 10.0.0.7: refused"`,
		},
		"any other error": {
			err:  secret,
			body: `{"title":"Internal Server Error","status":500}`,
			log:  `level=ERROR msg="request failed" method=GET route="GET /users/{id}" status=500 request_id=r-1 error="dial tcp 10.0.0.7: refused"`,
		},
		"a deadline": {
			err:  fmt.Errorf("query: %w", context.DeadlineExceeded),
			body: `{"title":"Service Unavailable","status":503}`,
			log:  `level=ERROR msg="request failed" method=GET route="GET /users/{id}" status=503 request_id=r-1 error="query: context deadline exceeded"`,
		},
		"a client that has gone": {
			ctx:  gone,
			err:  secret,
			body: `{"title":"Service Unavailable","status":503}`,
			log:  `level=DEBUG msg="request failed" method=GET route="GET /users/{id}" status=503 request_id=r-1 error="dial tcp 10.0.0.7: refused"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
				Level: slog.LevelDebug,
				ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
					if a.Key == slog.TimeKey {
						return slog.Attr{}
					}
					return a
				},
			}))
			mux := http.NewServeMux()
			mux.Handle("GET /users/{id}", problem.Handler(logger, func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Retry-After", "7")
				w.Header().Set("Cache-Control", "max-age=60")
				return tt.err
			}))
			r := httptest.NewRequest(http.MethodGet, "/users/ann@example.com", nil)
			r.Header.Set("X-Request-Id", "r-1")
			if tt.ctx != nil {
				r = r.WithContext(tt.ctx)
			}
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)

			if diff := cmp.Diff(tt.body, w.Body.String()); diff != "" {
				t.Error(diff)
			}
			var sent problem.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &sent); err != nil || sent.Status != w.Code {
				t.Errorf("status %d: %v", w.Code, err)
			}
			want := http.Header{
				"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"},
				"X-Content-Type-Options": {"nosniff"}, "Retry-After": {"7"},
			}
			if diff := cmp.Diff(want, w.Header()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.log, strings.TrimSpace(log.String())); diff != "" {
				t.Error(diff)
			}
		})
	}
	if away.Unwrap() != nil {
		t.Error("WithCause changed the problem itself")
	}
}

func TestHandler_TruncatesALongRequestID(t *testing.T) {
	var log bytes.Buffer
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Request-Id", strings.Repeat("x", 10_000))
	fail := func(http.ResponseWriter, *http.Request) error { return errors.New("no") }
	problem.Handler(slog.New(slog.NewTextHandler(&log, nil)), fail).ServeHTTP(httptest.NewRecorder(), r)
	if want := "request_id=" + strings.Repeat("x", 125) + "… "; !strings.Contains(log.String(), want) {
		t.Errorf("logged %s", log.String())
	}
}

func TestProblem_IsAnErrorWithItsCause(t *testing.T) {
	cause := errors.New("why")
	err := problem.Invalid(problem.FieldError{Field: "a", Message: "is wrong"}, problem.FieldError{Field: "b", Message: "too"}).WithCause(cause)
	if want := "400 Bad Request: Some fields are not as they should be.; a: is wrong; b: too: why"; err.Error() != want || !errors.Is(err, cause) {
		t.Error(err)
	}
}

func TestWriteJSON(t *testing.T) {
	t.Run("a value", func(t *testing.T) {
		w := httptest.NewRecorder()
		if err := problem.WriteJSON(w, http.StatusCreated, map[string]int{"a": 1}); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusCreated || w.Body.String() != "{\"a\":1}\n" || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Error(w.Code, w.Header(), w.Body)
		}
	})
	t.Run("that may be cached", func(t *testing.T) {
		w := httptest.NewRecorder()
		w.Header().Set("Cache-Control", "private")
		if err := problem.WriteJSON(w, http.StatusOK, 1); err != nil || w.Header().Get("Cache-Control") != "private" {
			t.Error(err, w.Header())
		}
	})
	t.Run("that cannot be encoded sends nothing", func(t *testing.T) {
		w := httptest.NewRecorder()
		handler := problem.Handler(nil, func(w http.ResponseWriter, _ *http.Request) error {
			return problem.WriteJSON(w, http.StatusOK, func() {})
		})
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusInternalServerError {
			t.Error(w.Code, w.Body)
		}
	})
}
