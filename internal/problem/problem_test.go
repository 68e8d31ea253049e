package problem_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

func ExampleRespond() {
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/settings", nil)
	problem.Respond(w, r, problem.Invalid(problem.FieldError{Field: "session_duration", Message: "must be at least 300"}))
	fmt.Println(w.Header().Get("Content-Type"))
	fmt.Println(w.Body)
	// Output:
	// application/problem+json
	// {"title":"Bad Request","status":400,"detail":"Some fields are invalid.","errors":[{"field":"session_duration","message":"must be at least 300"}]}
}

func TestRespond_SendsTheProblemAndNeverItsCause(t *testing.T) {
	secret := errors.New("dial tcp 10.0.0.7: refused")
	unavailable := problem.New(http.StatusServiceUnavailable, "Try again in a minute.")
	disconnected, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tt := range map[string]struct {
		ctx  context.Context
		err  error
		body string
	}{
		"a problem": {
			err:  fmt.Errorf("wrapped: %w", problem.New(http.StatusNotFound, "There is no such flag.")),
			body: `{"title":"Not Found","status":404,"detail":"There is no such flag."}`,
		},
		"a problem with a cause": {
			err:  problem.New(http.StatusConflict, "").WithCause(secret),
			body: `{"title":"Conflict","status":409}`,
		},
		"a shared problem with a cause": {
			err:  unavailable.WithCause(secret),
			body: `{"title":"Service Unavailable","status":503,"detail":"Try again in a minute."}`,
		},
		"any other error": {
			err:  secret,
			body: `{"title":"Internal Server Error","status":500}`,
		},
		"a deadline": {
			err:  fmt.Errorf("query: %w", context.DeadlineExceeded),
			body: `{"title":"Service Unavailable","status":503}`,
		},
		"a client that has disconnected": {
			ctx:  disconnected,
			err:  secret,
			body: `{"title":"Service Unavailable","status":503}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/users/ann@example.com", nil)
			if tt.ctx != nil {
				r = r.WithContext(tt.ctx)
			}
			w := httptest.NewRecorder()
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Cache-Control", "max-age=60")
			problem.Respond(w, r, tt.err)

			if diff := cmp.Diff(tt.body, w.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			var sent problem.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &sent); err != nil || sent.Status != w.Code {
				t.Errorf("the body has status %d, error %v; want the response's %d", sent.Status, err, w.Code)
			}
			want := http.Header{
				"Content-Type": {"application/problem+json"}, "Cache-Control": {"no-store"},
				"X-Content-Type-Options": {"nosniff"}, "Retry-After": {"7"},
			}
			if diff := cmp.Diff(want, w.Header()); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
	if unavailable.Unwrap() != nil {
		t.Error("WithCause changed the problem instead of a copy")
	}
}

func TestProblem_ErrorIncludesFieldsAndCause(t *testing.T) {
	cause := errors.New("why")
	err := problem.Invalid(problem.FieldError{Field: "a", Message: "is wrong"}, problem.FieldError{Field: "b", Message: "too"}).WithCause(cause)
	if want := "400 Bad Request: Some fields are invalid.; a: is wrong; b: too: why"; err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("error %q, want %q, wrapping the cause", err, want)
	}
}

func TestWriteJSON(t *testing.T) {
	t.Run("a value", func(t *testing.T) {
		w := httptest.NewRecorder()
		if err := problem.WriteJSON(w, http.StatusCreated, map[string]int{"a": 1}); err != nil {
			t.Fatal(err)
		}
		if w.Code != http.StatusCreated || w.Body.String() != "{\"a\":1}\n" || w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("status %d, headers %v, body %q; want 201, application/json, no-store and {\"a\":1}", w.Code, w.Header(), w.Body)
		}
	})
	t.Run("with a Cache-Control of the handler", func(t *testing.T) {
		w := httptest.NewRecorder()
		w.Header().Set("Cache-Control", "private")
		if err := problem.WriteJSON(w, http.StatusOK, 1); err != nil || w.Header().Get("Cache-Control") != "private" {
			t.Errorf("error %v, headers %v; want Cache-Control private", err, w.Header())
		}
	})
	t.Run("a value that cannot be encoded sends nothing", func(t *testing.T) {
		w := httptest.NewRecorder()
		if err := problem.WriteJSON(w, http.StatusOK, func() {}); err == nil || w.Body.Len() > 0 || len(w.Header()) > 0 {
			t.Errorf("error %v, headers %v, body %q; want an error and nothing sent", err, w.Header(), w.Body)
		}
	})
}
