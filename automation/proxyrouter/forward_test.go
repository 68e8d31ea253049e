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

// chatOn returns a streamed chat on a session.
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
			t.Errorf("the node received %s %s with body %s, %v; want POST /v1/chat/completions with %s", r.Method, r.URL, body, err, hello)
		}
		if u, p, _ := r.BasicAuth(); u != username || p != password {
			t.Error("the credentials are missing")
		}
		r.Header.Del("Authorization")
		want := http.Header{
			"Session_id": {sessionID}, "Model_id": {"0xm"}, "X-Request-Id": {"req-1"},
			"Chat_id":      {r.Header.Get("chat_id")}, // a hash
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
		t.Errorf("status %d, want the node's 418", resp.StatusCode)
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
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
		step <- struct{}{} // the node sends the next part only now
	}
}

func TestForward_RejectsBadPathsAndHeaders(t *testing.T) {
	c := serving(t, func(http.ResponseWriter, *http.Request) { t.Error("an invalid request was sent") })
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
		t.Errorf("the chat was sent %d times, want once", n)
	}

	unreachable := connect(t, "http://node", func(o *proxyrouter.Options) {
		o.HTTPClient = &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no route to host")
		}}}
	})
	resp, err = unreachable.Forward(t.Context(), chatOn(sessionID))
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
			t.Fatal("a chat at a node that never answers: no error")
		}
		if took := time.Since(begun); took != 10*time.Minute || !strings.Contains(err.Error(), "timeout awaiting response headers") {
			t.Errorf("the chat failed after %v: %v; want a timeout of the header after 10 minutes", took, err)
		}
	})
}
