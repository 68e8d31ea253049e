package automation_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// Without a live feed, the types of models come from the node's registry.
func TestModels_HaveTheTypesOfTheNodesRegistry(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{Models: []proxyroutertest.Model{
		{ID: proxyroutertest.ModelID("llama"), Name: "llama", Type: "LLM", Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(1)}}},
		{ID: proxyroutertest.ModelID("embedder"), Name: "embedder", Type: "EMBEDDING", Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(1)}}},
	}}})
	h.until("the registry has been read", func() bool { return strings.Contains(h.get("/api/v1/models", "").body, "EMBEDDING") })
	if body := h.get("/api/v1/models", "").body; !strings.Contains(body, `"created":1750000000`) {
		t.Errorf("no model has the registry's creation time: %s", body)
	}
	for _, c := range []struct{ name, path, body string }{
		{"an embedding model in a chat", chatPath, chatBody("embedder")},
		{"embeddings with a chat model", "/api/v1/embeddings", chatBody("llama")},
		{"embeddings without a model", "/api/v1/embeddings", `{"input":"x"}`},
	} {
		if a := h.do(http.MethodPost, c.path, "alice", c.body); a.status != http.StatusBadRequest || a.code() != "model_type_mismatch" {
			t.Errorf("%s: status %d, body %s; want 400 model_type_mismatch", c.name, a.status, a.body)
		}
	}
	if n := h.node.Stats().OpenRequests; n != 0 {
		t.Errorf("%d sessions opened for requests whose model has the wrong type, want none", n)
	}
	if a := h.do(http.MethodPost, "/api/v1/embeddings", "alice", `{"model":"embedder","input":"x"}`); a.status != http.StatusOK {
		t.Errorf("embeddings with an embedding model: status %d, body %s; want 200", a.status, a.body)
	}
}
