package main

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

func TestPage_ShowsTheTrialAndItsFaults(t *testing.T) {
	s, printed, end := startHere(t, "CORS_ORIGINS=https://app.example", "AUTOMATION_ADMIN_TOKEN=0123456789abcdef")
	s.awaitReady(t)
	for path, want := range map[string]string{
		"/":                           "trial/trial.js",
		"/trial/trial.css":            "prefers-color-scheme",
		"/trial/about":                "simulated node",
		"/trial/faults":               "stream-bare-json",
		"/docs/":                      "/api/v1/automation/settings",
		"/console/login":              "token",
		"/console/assets/console.css": "prefers-color-scheme",
		"/v1/models":                  "llama",
	} {
		if a := s.do(t, http.MethodGet, path, "", ""); a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("GET %s: %d, without %q", path, a.status, want)
		}
	}
	if text := printed(); !strings.Contains(text, "/console/ (token: 0123456789abcdef)") {
		t.Errorf("the server does not say where the console is:\n%s", text)
	}
	if a := s.do(t, http.MethodPost, "/trial/faults", "", `{"name":"open-refused"}`); a.status != http.StatusNoContent {
		t.Fatalf("choosing a fault: %+v", a)
	}
	if a := s.chat(t, "alice"); a.status != http.StatusServiceUnavailable {
		t.Errorf("a chat that gets no session: %+v", a)
	}
	if a := s.do(t, http.MethodGet, "/trial/faults", "", ""); !strings.Contains(a.body, `"active":"open-refused"`) {
		t.Errorf("the active fault: %+v", a)
	}
	if a := s.do(t, http.MethodPost, "/trial/faults", "", `{"name":"nonsense"}`); a.status != http.StatusBadRequest {
		t.Errorf("an unknown fault: %+v", a)
	}
	if a := s.do(t, http.MethodPost, "/trial/faults", "", `{"name":""}`); a.status != http.StatusNoContent {
		t.Errorf("ending the fault: %+v", a)
	}
	eventually(t, "chats are served again", func() bool { return s.chat(t, "alice").status == http.StatusOK })

	r, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, s.url+"/api/v1/chat/completions", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "https://app.example")
	r.Header.Set("Access-Control-Request-Method", "POST")
	r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.Header.Get("Access-Control-Allow-Origin") != "https://app.example" || answer.Header.Get("Access-Control-Allow-Headers") == "" {
		t.Errorf("a browser's preflight: %v", answer.Header)
	}
	if err := end(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

func TestUseEmbeddedMapping_ServesWhereNoFileIs(t *testing.T) {
	t.Chdir(t.TempDir())
	cfg := automation.DefaultConfig()
	remove, err := useEmbeddedMapping(&cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	if table, err := mapping.Load(cfg.MappingsFile); err != nil || len(table.Models()) == 0 {
		t.Errorf("the mapping in the program: %v", err)
	}
	remove()
	if _, err := os.Stat(cfg.MappingsFile); err == nil {
		t.Error("the file stays behind")
	}
	cfg.MappingsFile = "elsewhere.json"
	if _, err := useEmbeddedMapping(&cfg, "elsewhere.json"); err != nil || cfg.MappingsFile != "elsewhere.json" {
		t.Errorf("a file that is named became %q, %v", cfg.MappingsFile, err)
	}
}
