package proctest

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// readyTimeout bounds the wait for a server to become ready.
const readyTimeout = 5 * time.Minute

// Server is a running example server.
type Server struct {
	*Process

	URL string
	log *buffer
}

// StartServer starts program, a binary of examples/server, in the directory dir and
// waits until it is ready. Its environment is env and ADDR, which makes it listen on
// a free port. The test shows its log on failure.
func StartServer(t testing.TB, program, dir string, env ...string) *Server {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), program)
	cmd.Dir, cmd.Env = dir, append([]string{"ADDR=127.0.0.1:0"}, env...)
	s := &Server{log: &buffer{}}
	cmd.Stderr = s.log
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", program, s.Log())
		}
	})
	s.Process = Start(t, cmd)
	line, _ := s.Line()
	_, address, found := strings.Cut(line, "http://")
	if !found {
		t.Fatalf("the first line of the server is %q, want its address", line)
	}
	s.URL = "http://" + address
	s.awaitReady(t)
	return s
}

// Log returns what the server has logged so far.
func (s *Server) Log() string { return s.log.String() }

func (s *Server) awaitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !s.isReady(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the server is not ready after %v: %v", readyTimeout, ctx.Err())
		}
	}
}

func (s *Server) isReady(ctx context.Context) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/healthz/ready", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// buffer is a bytes.Buffer for concurrent use by the process's output and the test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
