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

// Each preset of a chat, and how its answer to a stream ends. Everything before is right.
func TestPresets_OfAChat(t *testing.T) {
	const finish = `"finish_reason":"stop"`
	for name, test := range map[string]struct {
		status int    // 0: no answer within a minute, or a broken connection
		suffix string // of the body
		not    string // is not in the body
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
					t.Errorf("%d %q", status, body)
				}
				n.ClearFaults()
				if status, body := serve(t.Context(), n, "/v1/chat/completions", streamed, on(id)); status != 200 || !strings.HasSuffix(body, "data: [DONE]\n\n") {
					t.Errorf("afterwards: %d %q", status, body)
				}
				if s := n.Stats(); s.Overlaps != 0 {
					t.Errorf("stats = %+v", s)
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
					t.Errorf("%d %s, %d opens", status, body, n.Stats().Opens)
				}
				if left := n.Faults(); len(left) != 0 {
					t.Errorf("faults left: %+v", left)
				}
			})
		})
	}
}

// serveOrBreak returns status 0 if the connection breaks, or nothing ends the answer within a minute.
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
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
	if len(seen) != 25+12 {
		t.Errorf("%d presets, %d are tested above", len(seen), 25+12)
	}
	defer func() {
		if recover() == nil {
			t.Error("an unknown name: no panic")
		}
	}()
	proxyroutertest.New(proxyroutertest.Options{}).Inject(proxyroutertest.Fault{Name: "no such"})
}

func TestOldNode_HidesTheStatusOfModelErrors(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	id := p.open()
	p.node.Inject(proxyroutertest.Fault{Name: "old-node"})
	for _, name := range []string{"model-context-length", "model-rate-limit", "model-overloaded"} {
		p.node.Inject(proxyroutertest.Fault{Name: name, Times: 1})
		body := p.call("POST", "/v1/chat/completions", hello, on(id), 400)
		wantText(t, body, `{"providerModelError":{"error":{"code":`)
		if strings.Contains(body, "statusCode") {
			t.Error(body)
		}
	}
}
