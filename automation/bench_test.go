package automation_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// discardWriter is a ResponseWriter that discards the body.
type discardWriter struct {
	header http.Header
	status int
}

func (s *discardWriter) Header() http.Header         { return s.header }
func (s *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (s *discardWriter) WriteHeader(status int)      { s.status = status }

// requestBody is a request's body that can be reset and sent again.
type requestBody struct{ bytes.Reader }

func (*requestBody) Close() error { return nil }

// BenchmarkSessions measures what the middleware adds to a request, without HTTP and without a
// call of the node: "bare" is the host's handler alone, the others wrap it in the middleware.
func BenchmarkSessions(b *testing.B) {
	text := []byte(chatBody("llama"))
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	run := func(b *testing.B, h http.Handler) {
		r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/chat/completions", nil)
		if err != nil {
			b.Fatal(err)
		}
		r.Header.Set("User", "alice")
		r.Header.Set("Content-Type", "application/json")
		w := &discardWriter{header: http.Header{}}
		content := &requestBody{}
		b.ReportAllocs()
		for b.Loop() {
			content.Reset(text)
			once := *r
			once.Body, once.ContentLength = content, int64(len(text))
			h.ServeHTTP(w, &once)
		}
		if w.status >= http.StatusBadRequest {
			b.Fatalf("status %d, want a success", w.status)
		}
	}
	identified := func(r *http.Request) (automation.Identity, error) {
		return automation.Identity{UserID: r.Header.Get("User")}, nil
	}
	b.Run("bare", func(b *testing.B) { run(b, handler) })
	for _, tt := range []struct {
		name  string
		setup setup
	}{
		{"master_off", setup{config: func(c *automation.Config) { c.FeatureEnabled = false }}},
		{"flag_off", setup{flagSQL: `UPDATE feature_flags SET enabled = false`}},
		{"not_in", setup{flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`}},
		{"opted_out", setup{config: func(c *automation.Config) { c.DefaultOptIn = false }}},
		{"on_sqlite", setup{}},
		{"on_postgres", setup{db: postgresDB}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			tt.setup.identify, tt.setup.next = identified, handler
			h := newHarness(b, tt.setup)
			run(b, h.Sessions(handler))
			if s := h.node.Stats(); (s.Opens == 1) != strings.HasPrefix(tt.name, "on_") {
				b.Fatalf("%d sessions were opened, want one in the benchmarks on_…, and none in the others", s.Opens)
			}
		})
	}
}
