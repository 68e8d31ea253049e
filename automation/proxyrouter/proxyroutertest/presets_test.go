package proxyroutertest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

const streamed = `{"stream":true,"messages":[{"role":"user","content":"hello there"}]}`

// Each preset of a chat, with the status and the end of the answer to a stream.
func TestPresets_OfAChat(t *testing.T) {
	const finish = `"finish_reason":"stop"`
	for name, test := range map[string]struct {
		status int    // 0: no answer within a minute, or a broken connection
		suffix string // the end of the body
		not    string // a text that the body must not have
	}{
		"chat-not-found":        {500, `{"error":"session not found"}`, ""},
		"chat-expired":          {500, `session expired"}`, ""},
		"lost-storage":          {500, `{"error":"provider not found"}`, ""},
		"provider-lost-storage": {500, `user not found"}`, ""},
		"provider-down":         {500, `failed to connect to provider"}`, ""},
		"provider-hangs":        {0, "", ""},
		"tee-failed":            {500, `attestation failed: quote"}`, ""},
		"chat-drop":             {0, "", ""},
		"chat-cut":              {0, "", "[DONE]"},
		"model-context-length":  {400, `"statusCode":400}`, ""},
		"model-content-filter":  {400, `"statusCode":400}`, ""},
		"model-rate-limit":      {429, `"statusCode":429}`, ""},
		"model-overloaded":      {503, `"statusCode":503}`, ""},
		"stream-bare-json":      {200, "\n\n" + `{"providerModelError":{"error":{"message":"The server had an error while processing your request","type":"server_error","param":null,"code":null}}}`, finish},
		"stream-ends":           {200, "}\n\n", finish},
		"stream-half-line":      {200, "", "[DONE]"},
		"stream-silent":         {0, "\n\n", "hello"},
		"stream-lingers":        {200, "data: [DONE]\n\n", "error"},
		"empty-answer":          {200, "", "data"},
		"error-stalls":          {0, "", "}"},
		"switching-protocols":   {101, "", ""},
		"redirect":              {307, "", ""},
		"node-down":             {0, "", ""},
		"credentials-refused":   {401, `{"error":"invalid username or password"}`, ""},
		"old-node":              {200, "data: [DONE]\n\n", "error"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := proxyroutertest.New(proxyroutertest.Options{})
				serve(t.Context(), n, "/blockchain/models/"+model+"/session", openBody, nil)
				id := n.Stats().Sessions[0].ID
				n.Inject(proxyroutertest.Fault{Name: name})
				status, body := serveOrBreak(t, n, "POST", "/v1/chat/completions", streamed, on(id))
				if status != test.status || !strings.HasSuffix(body, test.suffix) || (test.not != "" && strings.Contains(body, test.not)) {
					t.Errorf("status %d, body %q; want %d and a body that ends with %q and does not have %q", status, body, test.status, test.suffix, test.not)
				}
				n.ClearFaults()
				if status, body := serve(t.Context(), n, "/v1/chat/completions", streamed, on(id)); status != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
					t.Errorf("after ClearFaults: status %d, body %q; want 200 and a complete stream", status, body)
				}
				if s := n.Stats(); s.Overlaps != 0 {
					t.Errorf("stats = %+v, want no overlap", s)
				}
			})
		})
	}
}

func TestPresets_OfTheChain(t *testing.T) {
	openPath := "/blockchain/models/" + model + "/session"
	for name, test := range map[string]struct {
		method, path string
		status       int
		text         string
		opens        int
	}{
		"open-refused":       {"POST", openPath, 500, "model unhealthy", 0},
		"open-refused-stake": {"POST", openPath, 500, "failed to get min stake", 0},
		"open-nonce":         {"POST", openPath, 500, "nonce too low", 0},
		"open-no-eth-paid":   {"POST", openPath, 500, "insufficient ETH for gas", 1},
		"open-lost-reply":    {"POST", openPath, 0, "", 1},
		"open-error-paid":    {"POST", openPath, 500, "context deadline exceeded", 1},
		"open-hangs":         {"POST", openPath, 0, "", 0},
		"open-hangs-paid":    {"POST", openPath, 0, "", 1},
		"open-slow":          {"POST", openPath, 200, "sessionID", 1},
		"close-not-found":    {"POST", "/blockchain/sessions/" + model + "/close", 500, "session not found", 0},
		"get-rpc-error":      {"GET", "/blockchain/sessions/" + model, 500, "EOF", 0},
		"node-degraded":      {"GET", "/healthcheck", 503, "degraded", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := proxyroutertest.New(proxyroutertest.Options{})
				n.Inject(proxyroutertest.Fault{Name: name, Times: 1})
				status, body := serveOrBreak(t, n, test.method, test.path, openBody, nil)
				if status != test.status || !strings.Contains(body, test.text) || n.Stats().Opens != test.opens {
					t.Errorf("status %d, body %s, %d sessions opened; want %d, %q and %d", status, body, n.Stats().Opens, test.status, test.text, test.opens)
				}
				if left := n.Faults(); len(left) != 0 {
					t.Errorf("a fault with Times 1 is left after its call: %+v", left)
				}
			})
		})
	}
}

// serveOrBreak serves a request for at most a minute. Its status is 0 if the
// connection breaks, or the answer does not end in time.
func serveOrBreak(t *testing.T, n *proxyroutertest.Node, method, path, body string, header http.Header) (status int, got string) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if header != nil {
		r.Header = header
	}
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			status, got = 0, w.Body.String()
		}
	}()
	n.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestPresets_AreDescribedAndTested(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(-[a-z0-9]+)*$`)
	seen := map[string]bool{}
	for _, p := range proxyroutertest.Presets() {
		if !name.MatchString(p.Name) || seen[p.Name] || !strings.HasSuffix(p.Description, ".") {
			t.Errorf("the preset %+v has a malformed or repeated name, or a description that is no sentence", p)
		}
		seen[p.Name] = true
	}
	if tested := 25 + 12; len(seen) != tested { // the rows of the two tables above
		t.Errorf("%d presets, but %d are tested above", len(seen), tested)
	}
	defer func() {
		if recover() == nil {
			t.Error("Inject of an unknown preset: no panic")
		}
	}()
	proxyroutertest.New(proxyroutertest.Options{}).Inject(proxyroutertest.Fault{Name: "no such"})
}

func TestOldNode_HidesTheStatusOfModelErrors(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	h.node.Inject(proxyroutertest.Fault{Name: "old-node"})
	for _, name := range []string{"model-context-length", "model-rate-limit", "model-overloaded"} {
		h.node.Inject(proxyroutertest.Fault{Name: name, Times: 1})
		body := h.call("POST", "/v1/chat/completions", hello, on(id), 400)
		wantText(t, body, `{"providerModelError":{"error":{"code":`)
		if strings.Contains(body, "statusCode") {
			t.Errorf("an old node's error has a statusCode: %s", body)
		}
	}
}
