package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// startHere runs a server within the test binary until end is called or the
// test ends.
func startHere(t *testing.T, env ...string) (s *server, printed func() string, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		environ := append([]string{"ADDR=127.0.0.1:0", "MODEL_MAPPINGS_FILE=" + mappings(t),
			"DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "automation.db")}, env...)
		err := run(ctx, environ, w, t.Output())
		_ = w.CloseWithError(io.EOF)
		done <- err
	}()
	end = func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { _ = end() })
	text := &bytes.Buffer{}
	address, err := readAddress(io.TeeReader(r, text))
	if err != nil {
		t.Fatal(err)
	}
	return &server{url: address}, text.String, end
}

func TestServer_RedirectsNoPathWithDots(t *testing.T) {
	s, _, _ := startHere(t)
	s.awaitReady(t)
	for _, tt := range []struct {
		method, path string
		status       int
		media        string
	}{
		{"DELETE", "/api/v1/automation/sessions/..", 404, "application/problem+json"},
		{"DELETE", "/api/v1/automation/sessions/%2e%2e", 404, "application/problem+json"},
		{"DELETE", "/api/v1/automation/sessions/.", 404, "application/problem+json"},
		{"PUT", "/api/v1/automation/sessions/../settings", 404, "application/problem+json"},
		{"PATCH", "/admin/automation/flags/..", 404, "application/problem+json"},
		{"POST", "/api/v1/x/../chat/completions", 404, "text/plain; charset=utf-8"},
		{"GET", "/docs/./", 404, "text/plain; charset=utf-8"},
		{"GET", "/console/..", 404, "text/plain; charset=utf-8"},
		{"GET", "/api/v1/models/a..b", 404, "application/json"}, // a name, which no model has
		{"GET", "/api/v1//models", 307, "text/html; charset=utf-8"},
		{"GET", "/healthz//live", 307, "text/html; charset=utf-8"},
		{"GET", "/healthz/live", 200, "application/json"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, s.url+tt.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer sk-alice")
		a, err := http.DefaultTransport.RoundTrip(r) // which follows no redirect
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close()
		if a.StatusCode != tt.status || a.Header.Get("Content-Type") != tt.media {
			t.Errorf("%s %s: %d, %q to %q, want %d, %q", tt.method, tt.path, a.StatusCode, a.Header.Get("Content-Type"), a.Header.Get("Location"), tt.status, tt.media)
		}
	}
}

func TestServer_PrintsCommandsThatWork(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	s, printed, end := startHere(t)
	s.awaitReady(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	pasted := printed() + strings.ReplaceAll(string(readme), "http://127.0.0.1:8080", s.url)
	commands := 0
	for command := range strings.SplitSeq(strings.ReplaceAll(pasted, "\\\n", ""), "\n") {
		if !strings.HasPrefix(strings.TrimSpace(command), "curl ") {
			continue
		}
		commands++
		out, err := exec.CommandContext(t.Context(), "bash", "-c", strings.Replace(command, "curl", "curl -fsS", 1)).CombinedOutput()
		if err != nil || len(out) == 0 {
			t.Errorf("%s\n%v\n%s", command, err, out)
		}
	}
	if commands < 6 {
		t.Errorf("only %d commands in:\n%s", commands, pasted)
	}
	if err := end(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

func TestServer_HasTheRoutesOfTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := startHere(t)
	s.awaitReady(t)
	row := regexp.MustCompile("(?m)^\\| (`[A-Z]+.*?) \\|")
	// A row has methods, and then the paths that they are for.
	word := regexp.MustCompile("[A-Z]{3,}|/[a-z0-9_./{}]+")
	asked := 0
	for _, cell := range row.FindAllStringSubmatch(string(readme), -1) {
		var methods []string
		pathBefore := false
		for _, w := range word.FindAllString(cell[1], -1) {
			if w[0] != '/' {
				if pathBefore {
					methods = nil
				}
				methods, pathBefore = append(methods, w), false
				continue
			}
			pathBefore = true
			path := strings.ReplaceAll(w, "{id}", "default")
			if strings.HasPrefix(path, "/completions") || strings.HasPrefix(path, "/responses") || strings.HasPrefix(path, "/embeddings") || strings.HasPrefix(path, "/audio") {
				path = "/api/v1" + path
			}
			for _, method := range methods {
				asked++
				a := s.do(t, method, path, "alice", "")
				if a.status == http.StatusMethodNotAllowed || a.status == http.StatusNotFound && !strings.Contains(a.body, "open session of that id") {
					t.Errorf("%s %s: %+v", method, path, a)
				}
			}
		}
	}
	if asked < 15 {
		t.Errorf("README.md has only %d routes", asked)
	}
}

func TestServer_SaysWhatToDoAfterABadStart(t *testing.T) {
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	broken := filepath.Join(t.TempDir(), "mappings.json")
	if err := os.WriteFile(broken, []byte(`{"llama": "0x12"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  string
		want []string
	}{
		"a port in use":               {"ADDR=" + taken.Addr().String(), []string{"in use", "set ADDR"}},
		"a bad variable":              {"AUTOMATION_MAX_OPENS_PER_DAY=many", []string{"AUTOMATION_MAX_OPENS_PER_DAY"}},
		"a database of another kind":  {"DATABASE_URL=mysql://x", []string{"DATABASE_URL", "postgres://", "sqlite:"}},
		"a mapping that is not there": {"MODEL_MAPPINGS_FILE=" + broken + ".not", []string{broken + ".not"}},
		"a mapping that is invalid":   {"MODEL_MAPPINGS_FILE=" + broken, []string{broken, "llama"}},
	} {
		t.Run(name, func(t *testing.T) {
			environ := []string{"ADDR=127.0.0.1:0", "MODEL_MAPPINGS_FILE=" + mappings(t),
				"DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "automation.db"), c.env}
			err := run(t.Context(), environ, io.Discard, io.Discard)
			if err == nil {
				t.Fatal("it started and ended well")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not mention %q", err, want)
				}
			}
		})
	}
}

func TestServer_StartsWithoutItsDatabase(t *testing.T) {
	// A port that nobody listens on any more.
	gone, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	s, _, end := startHere(t, "DATABASE_URL=postgres://postgres@"+address+"/gateway?sslmode=disable")
	if a := s.do(t, http.MethodGet, "/healthz/live", "", ""); a.status != http.StatusOK {
		t.Errorf("live answers %+v", a)
	}
	eventually(t, "readiness names the database", func() bool {
		a := s.do(t, http.MethodGet, "/healthz/ready", "", "")
		return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, `"database":{"ok":false`)
	})
	if a := s.do(t, http.MethodGet, "/api/v1/automation/settings", "alice", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("what cannot be read is not 503: %+v", a)
	}
	if err := end(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}
