package automation_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// documentedPaths returns the paths of both OpenAPI documents, with values for their
// parameters.
func documentedPaths(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, text := range [][]byte{automation.OpenAPIDocument(), automation.AdminOpenAPIDocument()} {
		var doc struct {
			Paths map[string]any `json:"paths"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		for path := range doc.Paths {
			paths = append(paths, strings.NewReplacer("{name}", "automation", "{id}", strings.Repeat("ab", 32), "{model}", "llama").Replace(path))
		}
	}
	if len(paths) < 30 {
		t.Fatalf("the documents have only the %d paths %q, want at least 30", len(paths), paths)
	}
	return paths
}

// Every answer of every handler forbids browsers to guess its content type.
func TestHandlers_ForbidSniffing(t *testing.T) {
	t.Parallel()
	const token = "a-token-of-enough-length"
	h := newHarness(t, setup{config: func(c *automation.Config) { c.AdminToken = automation.NewSecret(token) }})
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", h.Forward())
	mux.Handle("/sessions/", h.Sessions(http.NotFoundHandler()))
	mux.Handle("/models/", h.Models())
	mux.Handle(automation.BasePath+"/", h.API())
	mux.Handle(automation.AdminPath+"/", h.Admin(nil))
	mux.Handle("/console/", http.StripPrefix("/console", console.New(h.Module, console.Options{Token: token})))
	mux.Handle("/off/", http.StripPrefix("/off", console.New(h.Module, console.Options{})))
	mux.Handle("/docs/", http.StripPrefix("/docs", console.APIDocument(automation.OpenAPIDocument())))
	mux.Handle("/healthz/live", h.Live())
	mux.Handle("/healthz/ready", h.Ready())
	mux.Handle("/openapi.json", h.OpenAPI())

	paths := documentedPaths(t)
	paths = append(paths, "/api/v1/no/such/route", automation.BasePath+"/nothing", automation.BasePath+"/settings/", automation.AdminPath+"/nothing",
		automation.BasePath+"/sessions/%00", automation.AdminPath+"/flags/%00", "/api/v1/models/no/such", "/api/v1/completions", "/api/v1/responses",
		"/api/v1/audio/speech", "/api/v1/audio/transcriptions", "/sessions/chat/completions", "/models/models", "/models/nothing",
		"/console/", "/console/login", "/console/switch", "/console/assets/console.css", "/console/nothing", "/off/", "/docs/", "/docs/nothing")
	statuses := map[int]int{}
	send := func(method, path, key, body string) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		if key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		statuses[w.Code]++
		if got := w.Header().Values("X-Content-Type-Options"); len(got) != 1 || got[0] != "nosniff" {
			t.Errorf("%s %s with key %q and body %q: status %d, X-Content-Type-Options %q; want nosniff once", method, path, key, body, w.Code, got)
		}
	}
	// Answers, streams, and failures of the node.
	for _, body := range []string{chatBody("llama"), llamaStreamBody, chatBody("embedder"), chatBody("nothing"), `{"model":7}`} {
		send("POST", "/api/v1/chat/completions", "sk-alice", body)
	}
	for _, fault := range []string{"provider-down", "chat-not-found", "stream-bare-json", "empty-answer", "redirect", "model-rate-limit"} {
		h.node.Inject(proxyroutertest.Fault{Name: fault})
		send("POST", "/api/v1/chat/completions", "sk-alice", chatBody("llama"))
		send("POST", "/api/v1/chat/completions", "sk-alice", llamaStreamBody)
		h.node.ClearFaults()
	}
	// All paths, at the end because operators' routes may switch the feature off.
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			for _, key := range []string{"", "sk-alice", token} {
				send(method, path, key, "")
			}
		}
		send("POST", path, "sk-alice", chatBody("llama"))
		send("POST", path, token, `{`)
	}
	for _, status := range []int{200, 400, 401, 404, 405, 429, 502, 503} {
		if statuses[status] == 0 {
			t.Errorf("no answer had the status %d, so the test does not cover it; statuses and their counts: %v", status, statuses)
		}
	}
}
