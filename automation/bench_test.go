package automation_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// sink is a ResponseWriter that costs nothing.
type discardWriter struct {
	header http.Header
	status int
}

func (s *discardWriter) Header() http.Header         { return s.header }
func (s *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (s *discardWriter) WriteHeader(status int)      { s.status = status }

// body is a request's, to be sent again and again.
type body struct{ bytes.Reader }

func (*body) Close() error { return nil }

// BenchmarkSessions is what the middleware adds to a request, the node and HTTP taken out: bare is
// the host's handler alone; the others have the middleware around it.
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
		content := &body{}
		b.ReportAllocs()
		for b.Loop() {
			content.Reset(text)
			once := *r
			once.Body, once.ContentLength = content, int64(len(text))
			h.ServeHTTP(w, &once)
		}
		if w.status >= http.StatusBadRequest {
			b.Fatal(w.status)
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
			if s := h.node.Stats(); strings.HasPrefix(tt.name, "on") != (s.Opens == 1) {
				b.Fatalf("%d opens", s.Opens)
			}
		})
	}
}
