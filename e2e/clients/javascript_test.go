package clients_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// TestJavaScript runs the tests in js. They share one simulated node and set its
// faults, so the files run one after another.
func TestJavaScript(t *testing.T) {
	if _, err := os.Stat("js/node_modules"); err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_NPM") != "" {
			t.Fatal(err)
		}
		t.Skip("run npm install --no-package-lock --ignore-scripts in e2e/clients/js for these tests")
	}
	files, err := filepath.Glob("js/*.test.mjs")
	if err != nil || len(files) == 0 {
		t.Fatal("no tests in js", err)
	}
	node := startNode(t, proxyroutertest.Options{Control: true, ChunkDelay: 5 * time.Millisecond})
	gateway := start(t, t.TempDir(), "PROXY_ROUTER_URL="+node.URL)
	limited := start(t, t.TempDir(), "PROXY_ROUTER_URL="+node.URL, "AUTOMATION_MAX_OPENS_PER_HOUR=1")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", "--test-timeout=120000", filepath.Base(file))
			cmd.Dir = "js"
			cmd.Env = append(os.Environ(), "BASE_URL="+gateway.URL, "LIMITED_URL="+limited.URL, "NODE_URL="+node.URL, "LANGCHAIN_TRACING_V2=false")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("node --test %s: %v\n%s", filepath.Base(file), err, out)
			}
		})
	}
	gateway.Terminate(t)
	limited.Terminate(t)
}
