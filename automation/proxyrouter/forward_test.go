package proxyrouter_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

const hello = `{"stream":true,"messages":[{"role":"user","content":"hello there"}]}`

func chatOn(id string) proxyrouter.ChatRequest {
	return proxyrouter.ChatRequest{
		Path: "/v1/chat/completions", SessionID: id, RequestID: "req-1",
		Header: http.Header{"Content-Type": {"application/json"}}, Body: []byte(hello),
	}
}

func TestForward_SendsOnlyAllowedHeaders(t *testing.T) {
	c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != hello || r.Method != http.MethodPost || r.URL.Path != "/v1/chat/completions" {
			t.Errorf("%s %s: %s, %v", r.Method, r.URL, body, err)
		}
		if u, p, _ := r.BasicAuth(); u != username || p != password {
			t.Error("the credentials are missing")
		}
		r.Header.Del("Authorization")
		want := http.Header{
			"Session_id": {sessionID}, "Model_id": {"0xm"}, "Chat_id": {r.Header.Get("chat_id")}, "X-Request-Id": {"req-1"},
			"Content-Type": {"application/json"}, "Content-Encoding": {"identity"}, "Accept": {"text/event-stream"},
			"User-Agent": {"gateway-automation"}, "Content-Length": {"68"},
		}
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Errorf("header (-want +got):\n%s", diff)
		}
		w.WriteHeader(http.StatusTeapot)
	})
	resp, err := c.Forward(t.Context(), proxyrouter.ChatRequest{
		Path: "/v1/chat/completions", SessionID: sessionID, ModelID: "0xm", ChatID: "chat-1", RequestID: "req-1",
		Header: http.Header{
			"Authorization": {"Bearer sk-user"}, "Cookie": {"a=b"}, "Idempotency-Key": {"k"}, "Session_id": {"0xother"},
			"Content-Type": {"application/json"}, "Content-Encoding": {"identity"}, "Accept": {"text/event-stream"},
		},
		Body: []byte(hello),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if resp.StatusCode != http.StatusTeapot {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestForward_StreamsTheResponse(t *testing.T) {
	step := make(chan struct{})
	c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{"one", "two"} {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-step:
			case <-r.Context().Done():
			}
		}
	})
	resp, err := c.Forward(t.Context(), chatOn(sessionID))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	for _, want := range []string{"one", "two"} {
		got := make([]byte, 3)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v", got, err)
		}
		step <- struct{}{} // the node waits until we have read
	}
}

func TestForward_RejectsBadPathsAndHeaders(t *testing.T) {
	c := serving(t, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	for _, r := range []proxyrouter.ChatRequest{
		{Path: "/v1/chat/completions"},
		{Path: "/v1/chat/completions", SessionID: "a\r\nb"},
		{Path: "/wallet", SessionID: sessionID},
		{Path: "/v1/../wallet", SessionID: sessionID},
		{Path: "/v1/chat?x=1", SessionID: sessionID},
		{Path: "/v1/%2e%2e/wallet", SessionID: sessionID},
	} {
		resp, err := c.Forward(t.Context(), r)
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("%+v: no error", r)
		}
	}
	resp, err := c.Forward(t.Context(), proxyrouter.ChatRequest{Path: "/v1/x", SessionID: sessionID, ModelID: "a\nb"})
	if err == nil {
		_ = resp.Body.Close()
		t.Error("a line feed in a header: no error")
	}
}

func TestForward_SendsOnce(t *testing.T) {
	node := newRawNode(t, func(c net.Conn) { _ = c.Close() })
	c := connect(t, node.url)
	if _, err := c.WalletSessions(t.Context(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.Forward(t.Context(), chatOn(sessionID))
	if err == nil {
		_ = resp.Body.Close()
	}
	wantErrors(t, err)
	if n := node.posts.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}

	gone := connect(t, "http://node", func(o *proxyrouter.Options) {
		o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no route to host")
		}}}
	})
	resp, err = gone.Forward(t.Context(), chatOn(sessionID))
	if err == nil {
		_ = resp.Body.Close()
	}
	wantErrors(t, err, "unavailable")
}

func TestForward_BoundsTheWaitForTheHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		id := open(t, c)
		node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeHang})
		begun := time.Now()
		resp, err := c.Forward(t.Context(), chatOn(id))
		if err == nil {
			_ = resp.Body.Close()
			t.Fatal("no error")
		}
		if took := time.Since(begun); took != 10*time.Minute || !strings.Contains(err.Error(), "timeout awaiting response headers") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

func TestClassify(t *testing.T) {
	const (
		none     = proxyrouter.RemedyNone
		renew    = proxyrouter.RemedyRenew
		failover = proxyrouter.RemedyFailover
	)
	for name, test := range map[string]struct {
		status  int
		body    string
		remedy  proxyrouter.Remedy
		missing bool
		answer  int
	}{
		"expired":                             {500, `{"error":"provider request failed: provider error: session expired"}`, renew, false, 500},
		"expired, in capitals and bare":       {500, `Session Expired`, renew, false, 500},
		"missing":                             {500, `{"error":"session not found"}`, renew, true, 500},
		"the model's TEE":                     {500, `{"error":"LLM TEE verification failed: quote"}`, none, false, 500},
		"the provider's TEE":                  {502, `{"error":"p-node TEE attestation failed"}`, none, false, 502},
		"cancelled in the queue":              {503, `{"error":"request cancelled while waiting in queue"}`, none, false, 503},
		"any 500":                             {500, `{"error":"provider request failed"}`, failover, false, 500},
		"a 503 without words":                 {503, ``, failover, false, 503},
		"too many requests":                   {429, `{"error":"rate limited"}`, failover, false, 429},
		"a malformed request":                 {400, `{"error":"invalid character"}`, none, false, 400},
		"an overlap":                          {409, `{"error":"busy"}`, none, false, 409},
		"our credentials":                     {401, `{"error":"invalid username or password"}`, none, false, 502},
		"our rights":                          {403, `{"error":"method not allowed"}`, none, false, 502},
		"a redirect":                          {302, ``, none, false, 502},
		"the model's 429, newer":              {429, `{"providerModelError":{"error":{"message":"slow"}},"statusCode":429}`, failover, false, 429},
		"the model's 503, newer":              {503, `{"providerModelError":"down","statusCode":503}`, failover, false, 503},
		"the model's status told only inside": {400, `{"providerModelError":{},"statusCode":503}`, failover, false, 503},
		"the model's refusal, newer":          {422, `{"providerModelError":{},"statusCode":422}`, none, false, 422},
		"the model's 400, newer":              {400, `{"providerModelError":{},"statusCode":400}`, none, false, 400},
		"the model's error, older":            {400, `{"providerModelError":{"error":"overloaded"}}`, failover, false, 400},
		"the provider's 401":                  {401, `{"providerModelError":{"error":"bad key"},"statusCode":401}`, failover, false, 502},
		"the provider's 403":                  {403, `{"providerModelError":{}}`, failover, false, 502},
		"the provider's 404 told inside":      {400, `{"providerModelError":{},"statusCode":404}`, failover, false, 502},
		"a model that talks of sessions":      {400, `{"providerModelError":{"error":"session expired"},"statusCode":400}`, none, false, 400},
		"an error of the model that is null":  {500, `{"providerModelError":null,"error":"session expired"}`, renew, false, 500},
		"a status that is none":               {500, `{"providerModelError":{},"statusCode":7}`, failover, false, 500},
	} {
		t.Run(name, func(t *testing.T) {
			got := proxyrouter.Classify(test.status, []byte(test.body))
			got.Message = ""
			want := proxyrouter.ChatError{Remedy: test.remedy, Missing: test.missing, Status: test.answer}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := proxyrouter.Classify(400, []byte(`{"providerModelError":{"error":"context too long"}}`)).Message; got != "context too long" {
		t.Errorf("message = %q", got)
	}
}

func TestClassify_UnderstandsTheSimulatedNode(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	id := open(t, c)
	classify := func(id string) proxyrouter.Remedy {
		t.Helper()
		resp, err := c.Forward(t.Context(), chatOn(id))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to its end
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == 200 {
			t.Fatalf("%d, %v", resp.StatusCode, err)
		}
		return proxyrouter.Classify(resp.StatusCode, body).Remedy
	}
	for _, f := range []proxyroutertest.Fault{
		proxyroutertest.ProviderModelError(429, "slow down"), proxyroutertest.OldProviderModelError("overloaded"),
		{Op: proxyroutertest.OpChat, Status: 502},
	} {
		f.Times = 1
		f.Provider = proxyroutertest.ProviderAddress(0)
		node.Inject(f)
		if got := classify(id); got != proxyrouter.RemedyFailover {
			t.Errorf("%+v: %v", f, got)
		}
	}
	node.Expire(id)
	for _, id := range []string{id, proxyroutertest.ModelID("no session")} {
		if got := classify(id); got != proxyrouter.RemedyRenew {
			t.Errorf("%s: %v", id, got)
		}
	}
}

func TestRemedy_String(t *testing.T) {
	got := []string{proxyrouter.RemedyNone.String(), proxyrouter.RemedyRenew.String(), proxyrouter.RemedyFailover.String()}
	if diff := cmp.Diff([]string{"none", "renew", "failover"}, got); diff != "" {
		t.Error(diff)
	}
}
