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

// timeout bounds each wait of a test.
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
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
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

// client returns an SDK client of the gateway that does not retry.
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
			t.Fatalf("waited %v in vain until %s", timeout, what)
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
		modelType := "LLM"
		for name, typ := range types {
			if resolved, err := table.Resolve(name, mapping.Type(typ)); err == nil && resolved.ID == m.ID {
				modelType = typ
			}
		}
		o.Models = append(o.Models, proxyroutertest.Model{ID: m.ID, Name: m.Name, Type: modelType,
			Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(1)}, {Address: proxyroutertest.ProviderAddress(2)}}})
	}
	return proxyroutertest.NewServer(t, o)
}
