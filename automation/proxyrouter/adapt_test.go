package proxyrouter_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestForward_WrapsAStopString(t *testing.T) {
	var got []byte
	c := serving(t, func(_ http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if int64(len(got)) != r.ContentLength {
			t.Errorf("Content-Length is %d, but the body has %d bytes", r.ContentLength, len(got))
		}
	})
	send := func(path, body string) string {
		t.Helper()
		resp, err := c.Forward(t.Context(), proxyrouter.ChatRequest{Path: path, SessionID: sessionID, Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return string(got)
	}
	for body, want := range map[string]string{
		`{"stop":"x"}`: `{"stop":["x"]}`,
		"{ \"stop\"\t:\r\n \"a\\\"b\\\\\" , \"n\":1}": "{ \"stop\"\t:\r\n [\"a\\\"b\\\\\"] , \"n\":1}",
		`{"a":{"stop":"x"},"b":["stop"],"stop":"y"}`:  `{"a":{"stop":"x"},"b":["stop"],"stop":["y"]}`,
		`{"a":"\"stop\":\"x\"","stop":""}`:            `{"a":"\"stop\":\"x\"","stop":[""]}`,
	} {
		if got := send("/v1/chat/completions", body); got != want {
			t.Errorf("%s became %s, want %s", body, got, want)
		}
	}
	for _, body := range []string{
		``, `{}`, `{"stop":["x"]}`, `{"stop":null}`, `{"model":"stop"}`, `{"stop"`, `{"stop":`, `["stop","x"]`, `{"messages":[{"stop":"x"}]}`, `{"a":"stop`,
	} {
		if got := send("/v1/chat/completions", body); got != body {
			t.Errorf("%s became %s, want it unchanged", body, got)
		}
	}
	if got := send("/v1/embeddings", `{"stop":"x"}`); got != `{"stop":"x"}` {
		t.Errorf("the body of an embeddings request became %s, want it unchanged", got)
	}

	_, simulated := start(t, proxyroutertest.Options{})
	resp, err := simulated.Forward(t.Context(), proxyrouter.ChatRequest{Path: "/v1/chat/completions", SessionID: open(t, simulated),
		Body: []byte(`{"messages":[{"role":"user","content":"one two"}],"stop":"two"}`)})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !bytes.Contains(text, []byte(`"You said: one "`)) {
		t.Errorf("the simulated node answers %d %s, want 200 and a content that ends before the stop word", resp.StatusCode, text)
	}
}

func TestForward_ScopesTheChatID(t *testing.T) {
	sent := map[string]string{} // the chat_id that the node received, by user and chat
	var key string
	c := serving(t, func(_ http.ResponseWriter, r *http.Request) { sent[key] = r.Header.Get("chat_id") })
	for _, user := range []string{"", "alice", "alice2", "bob"} {
		for _, chat := range []string{"", "1", "21", "another"} {
			key = user + "/" + chat
			resp, err := c.Forward(t.Context(), proxyrouter.ChatRequest{Path: "/v1/x", SessionID: sessionID, UserID: user, ChatID: chat})
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			wantLength := len("0x") + 64
			if chat == "" {
				wantLength = 0
			}
			if len(sent[key]) != wantLength {
				t.Errorf("for user/chat %q the chat_id is %q, want %d characters", key, sent[key], wantLength)
			}
		}
	}
	distinct := map[string]bool{}
	for _, id := range sent {
		distinct[id] = true
	}
	if len(distinct) != 4*3+1 {
		t.Errorf("%d different chat_ids, want 12 for 4 users with 3 chats, and the empty one: %v", len(distinct), sent)
	}
}

func TestForward_KeepsATranscriptToItsUser(t *testing.T) {
	var body string
	_, c := start(t, proxyroutertest.Options{OnChat: func(_ *http.Request, b []byte) { body = string(b) }})
	id := open(t, c)
	say := func(user, text string) {
		t.Helper()
		raw, _ := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": text}}})
		resp, err := c.Forward(t.Context(), proxyrouter.ChatRequest{Path: "/v1/chat/completions", SessionID: id, UserID: user, ChatID: "1", Body: raw})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	say("alice", "a secret")
	say("alice", "again")
	if !strings.Contains(body, "a secret") {
		t.Errorf("alice's second request lacks her own transcript: %s", body)
	}
	say("bob", "hello")
	if strings.Contains(body, "secret") {
		t.Errorf("bob's request has alice's transcript: %s", body)
	}
}
