package clients_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
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

// server is a process of examples/server.
type server struct{ *proctest.Server }

// start starts a server in dir, where it keeps its database, and waits until
// it is ready.
func start(t *testing.T, dir string, env ...string) *server {
	t.Helper()
	mapping, err := filepath.Abs("../../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	return &server{proctest.StartServer(t, binary, dir, append([]string{"MODEL_MAPPINGS_FILE=" + mapping}, env...)...)}
}

// client returns a client as a user of the gateway would configure it.
func (s *server) client(key string) openai.Client {
	return openai.NewClient(option.WithBaseURL(s.URL+"/api/v1"), option.WithAPIKey(key), option.WithMaxRetries(0))
}

// eventually waits until ok returns true.
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
