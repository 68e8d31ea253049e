package automation_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestModels_AreServedByModelsAndByForward(t *testing.T) {
	t.Parallel()
	names := map[string]string{"default": proxyroutertest.ModelID("llama"), "meta-llama/Llama-3.2-3B": proxyroutertest.ModelID("llama"), "glm-5.1:web": proxyroutertest.ModelID("glm")}
	h := newHarness(t, setup{})
	writeJSON(t, h.cfg.MappingsFile, names)
	h.until("the new names are loaded", func() bool { return strings.Contains(h.get("/api/v1/models", "").body, "glm-5.1:web") })
	for _, mount := range []string{"/api/v1/models", "/forward/v1/models"} {
		for _, name := range []string{"meta-llama/Llama-3.2-3B", "META-LLAMA/llama-3.2-3b", url.PathEscape("meta-llama/Llama-3.2-3B"), names["meta-llama/Llama-3.2-3B"]} {
			a := h.get(mount+"/"+name, "")
			if v := a.json(t); a.status != http.StatusOK || v["id"] != "meta-llama/Llama-3.2-3B" || v["object"] != "model" || v["model_id"] != names["meta-llama/Llama-3.2-3B"] {
				t.Errorf("%s/%s: status %d, body %s; want 200 and the model meta-llama/Llama-3.2-3B", mount, name, a.status, a.body)
			}
		}
		if a := h.get(mount+"/glm-5.1:web", ""); a.status != http.StatusOK || a.json(t)["id"] != "glm-5.1:web" {
			t.Errorf("%s/glm-5.1:web: status %d, body %s; want 200 and that model", mount, a.status, a.body)
		}
		for _, unknown := range []string{"glm-5.1", "%00", "glm-5.1:web%00", "%ff"} {
			if a := h.get(mount+"/"+unknown, ""); a.status != http.StatusNotFound || a.code() != "model_not_found" || !json.Valid([]byte(a.body)) {
				t.Errorf("%s/%s: status %d, body %s; want 404 model_not_found", mount, unknown, a.status, a.body)
			}
		}
		a := h.do("POST", mount, "alice", "{}")
		if a.status != http.StatusMethodNotAllowed || a.code() != "method_not_allowed" || a.header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: status %d, body %s, header %v; want 405 method_not_allowed with Allow", mount, a.status, a.body, a.header)
		}
		if a := h.get(mount, ""); a.status != http.StatusOK || a.header.Get("X-Content-Type-Options") != "nosniff" || len(a.json(t)["data"].([]any)) != 2 {
			t.Errorf("%s: status %d, body %s, header %v; want 200, nosniff and two models", mount, a.status, a.body, a.header)
		}
	}
	for _, path := range []string{"/forward/v1/modelsx", "/forward/v1/nothing", "/forward/"} {
		if a := h.get(path, "alice"); a.status != http.StatusNotFound || a.code() != "unknown_url" {
			t.Errorf("%s: status %d, body %s; want 404 unknown_url", path, a.status, a.body)
		}
	}
}

func TestModels_AnswerNotFoundForNamesThatOnlyTheDefaultServes(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.UnknownModel = automation.UnknownModelDefault }})
	if a := h.get("/api/v1/models/nothing-like-it", ""); a.status != http.StatusNotFound || a.code() != "model_not_found" {
		t.Errorf("status %d, body %s; want 404 model_not_found", a.status, a.body)
	}
}
