package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
)

// testTimeout bounds how long a test waits for what must happen. Nothing is
// measured by it: a machine at a load of 50 must stay within it.
const testTimeout = 5 * time.Minute

// The test binary is the server itself where this variable says so, so that
// servers are processes of their own that can be killed.
const serverVariable = "EXAMPLE_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(serverVariable) != "" {
		main()
		return
	}
	// The longest tests wait rather than compute, so more run at once than there are cores.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// server is a process of this example.
type server struct {
	*proctest.Process

	url string
}

// startProcess starts a server and waits until it is ready.
func startProcess(t *testing.T, env ...string) *server {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return startProgram(t, program, env...)
}

// startProgram starts a program: this server, or one that was built from another commit.
func startProgram(t *testing.T, program string, env ...string) *server {
	t.Helper()
	s := proctest.StartServer(t, program, t.TempDir(), append([]string{serverVariable + "=1", "MODEL_MAPPINGS_FILE=" + mappings(t)}, env...)...)
	return &server{s.Process, s.URL}
}

// readAddress reads the first line of what a server prints, which ends with
// its URL.
func readAddress(out io.Reader) (string, error) {
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, found := strings.Cut(strings.TrimSpace(line), "http://")
	if err != nil || !found {
		return "", fmt.Errorf("the server said %q: %w", line, err)
	}
	return "http://" + address, nil
}

func mappings(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *server) awaitReady(t *testing.T) {
	t.Helper()
	eventually(t, "the server is ready", func() bool {
		return s.do(t, http.MethodGet, "/healthz/ready", "", "").status == http.StatusOK
	})
}

// answer is the answer to a request; status 0 means that none came.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *server) do(t *testing.T, method, path, user, body string) answer {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return answer{}
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer sk-"+user)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{body: err.Error()}
	}
	if got := response.Header.Values("X-Content-Type-Options"); len(got) != 1 || got[0] != "nosniff" {
		t.Errorf("%s %s: %d with X-Content-Type-Options %q", method, path, response.StatusCode, got)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

func (s *server) chat(t *testing.T, user string) answer {
	return s.do(t, http.MethodPost, "/api/v1/chat/completions", user,
		`{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hello"}]}`)
}

// sessions lists a user's open sessions by id, each with its state.
func (s *server) sessions(t *testing.T, user string) map[string]string {
	t.Helper()
	var list struct {
		Sessions []struct{ ID, State string }
	}
	a := s.do(t, http.MethodGet, "/api/v1/automation/sessions", user, "")
	if err := json.Unmarshal([]byte(a.body), &list); err != nil {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	states := map[string]string{}
	for _, one := range list.Sessions {
		states[one.ID] = one.State
	}
	return states
}

// eventually waits until ok returns true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", testTimeout, what)
		}
	}
}

// together calls f n times concurrently and waits for all calls.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

// A load balancer needs a moment to see that a replica ends.
func TestServer_AcceptsRequestsForAWhileAfterSIGTERM(t *testing.T) {
	s := startProcess(t, "SHUTDOWN_DELAY=1h") // it is killed at the end of the test
	get := func(path string) int { return s.do(t, http.MethodGet, path, "", "").status }
	if got := get("/healthz/serving"); got != http.StatusOK {
		t.Fatalf("serving: %d", got)
	}
	s.Signal(t, syscall.SIGTERM)
	eventually(t, "the replica says that it ends", func() bool { return get("/healthz/serving") == http.StatusServiceUnavailable })
	if a := s.chat(t, "alice"); a.status != http.StatusOK {
		t.Errorf("a chat after SIGTERM: %d %s", a.status, a.body)
	}
	if got := get("/healthz/live"); got != http.StatusOK {
		t.Errorf("live: %d, want 200, so that nobody restarts it", got)
	}
}

// The simulated node loses its sessions when the process ends; the database keeps them.
func TestServer_ServesAgainAfterAKill(t *testing.T) {
	database := "DATABASE_URL=sqlite:" + filepath.Join(t.TempDir(), "automation.db")
	for range 2 {
		s := startProcess(t, database)
		s.awaitReady(t)
		if a := s.chat(t, "alice"); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
		s.Kill()
	}
}
