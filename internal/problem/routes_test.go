package problem_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

func TestRoutes_AnswersUnknownRoutesWithProblems(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("PUT /a", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	h := problem.Routes(mux)
	for _, tc := range []struct {
		method, path string
		status       int
		media, allow string
	}{
		{"GET", "/a", 204, "", ""},
		{"PUT", "/a", 202, "", ""},
		{"POST", "/a", 405, "application/problem+json", "GET, HEAD, PUT"},
		{"GET", "/b", 404, "application/problem+json", ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, nil))
		if w.Code != tc.status || w.Header().Get("Content-Type") != tc.media || w.Header().Get("Allow") != tc.allow {
			t.Errorf("%s %s: got %d %q, allow %q; want %d %q, %q", tc.method, tc.path, w.Code,
				w.Header().Get("Content-Type"), w.Header().Get("Allow"), tc.status, tc.media, tc.allow)
		}
		if tc.status == http.StatusNoContent && w.Body.Len() > 0 {
			t.Errorf("status %d has a body of %d bytes, want none", w.Code, w.Body.Len())
		}
	}
}
