package clients_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// timeout bounds whatever a test waits for.
const timeout = 30 * time.Second

// binary is examples/server, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "server")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", binary, "./examples/server")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v\n%s", err, out))
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// A server is a process of examples/server.
type server struct {
	url  string
	cmd  *exec.Cmd
	logs *buffer
}

// start starts a server in dir, where it keeps its database, and waits until
// it is ready.
func start(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	mapping, err := filepath.Abs("../../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "ADDR=127.0.0.1:0", "MODEL_MAPPINGS_FILE=" + mapping}, env...)
	s := &server{cmd: cmd, logs: &buffer{}}
	cmd.Stderr = s.logs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.logs)
		}
	})
	// The first line ends with the address.
	line, err := bufio.NewReader(out).ReadString('\n')
	_, address, found := strings.Cut(strings.TrimSpace(line), "http://")
	if err != nil || !found {
		t.Fatalf("the server said %q (%v)\n%s", line, err, s.logs)
	}
	s.url = "http://" + address
	eventually(t, "the server is ready", func() bool {
		response, err := http.Get(s.url + "/healthz/ready") //nolint:noctx // eventually is bounded
		if err != nil {
			return false
		}
		defer response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return s
}

// end asks the server to end and checks that it does.
func (s *server) end(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("the server ended with %v", err)
	}
}

// kill gives the server no time for anything.
func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit, ok := errors.AsType[*exec.ExitError](s.cmd.Wait()); !ok || exit.Exited() {
		t.Fatal("the server ended by itself")
	}
}

// client is what a user of the gateway writes.
func (s *server) client(key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(s.url+"/api/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

// eventually asks again and again until the answer is yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", timeout, what)
		}
	}
}

// A buffer takes what a process logs.
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

// startNode starts a simulated node that knows the models of the mapping, with
// their types, each with two providers.
func startNode(t *testing.T, o proxyroutertest.Options) *proxyroutertest.Server {
	t.Helper()
	table, err := mapping.Load("../../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]string{"text-embedding-bge-m3": "EMBEDDING", "whisper-v3-large-turbo": "STT", "tts-kokoro": "TTS"}
	for _, m := range table.Models() {
		kind := "LLM"
		for name, other := range types {
			if typed, err := table.Resolve(name, mapping.Type(other)); err == nil && typed.ID == m.ID {
				kind = other
			}
		}
		o.Models = append(o.Models, proxyroutertest.Model{ID: m.ID, Name: m.Name, Type: kind,
			Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(1)}, {Address: proxyroutertest.ProviderAddress(2)}}})
	}
	return proxyroutertest.NewServer(t, o)
}
