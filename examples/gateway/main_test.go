package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestGateway_IsShort(t *testing.T) {
	text, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(text), "\n)\n") // after the imports
	lines := len(regexp.MustCompile(`(?m)^\s*[^\s/]`).FindAllString(code, -1))
	if lines >= 65 {
		t.Errorf("%d lines of code, want fewer than 65", lines)
	}
}

func TestGateway_MountsEverything(t *testing.T) {
	dsn := pgtest.Database(t)
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	for name, value := range map[string]string{
		"DATABASE_URL": dsn, "PROXY_ROUTER_URL": node.URL, "MODEL_MAPPINGS_FILE": "../../model_mappings.json", "AUTOMATION_ADMIN_TOKEN": "the-operators-token",
		"AUTOMATION_FEATURE_ENABLED": "true", "AUTOMATION_DEFAULT_OPT_IN": "true", "AUTOMATION_FLAG_POLL_INTERVAL": "20ms",
	} {
		t.Setenv(name, value)
	}
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, addr) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	do := func(method, path, key, body string) (int, string, http.Header) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err.Error(), nil
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), resp.Header
	}
	deadline := time.Now().Add(5 * time.Minute) // a machine may be loaded many times over
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for status := 0; status != http.StatusOK; status, _, _ = do("GET", "/healthz/ready", "", "") {
		if time.Now().After(deadline) {
			t.Fatal("not ready")
		}
		<-pause.C
	}
	if status, text, _ := do("PATCH", "/admin/automation/flags/automation", "the-operators-token", `{"rollout_percentage":100}`); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	for {
		status, text, header := do("POST", "/api/v1/chat/completions", "sk-alice", `{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hi"}]}`)
		if status == http.StatusOK && header.Get("X-Automation-Session") != "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d %s", status, text)
		}
		<-pause.C
	}
	for path, key := range map[string]string{
		"/api/v1/models": "", "/api/v1/automation/settings": "sk-alice", "/api/v1/automation/sessions": "sk-alice", "/api/v1/automation/status": "sk-alice",
		"/admin/automation/rollouts": "the-operators-token", "/healthz/live": "", "/openapi.json": "", "/metrics": "",
	} {
		status, text, header := do("GET", path, key, "")
		if got := header.Values("X-Content-Type-Options"); status != http.StatusOK || len(got) != 1 || got[0] != "nosniff" {
			t.Errorf("%s: %d %s, nosniff %q", path, status, text, got)
		}
	}
}
