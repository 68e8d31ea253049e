package proxyrouter

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

func isCanonical(id string) bool {
	parsed, err := pathID(id)
	return err == nil && parsed == id
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `{"session":null}`, `{"sessions":null}`, `{"sessions":[null]}`, `{"bids":[{}]}`,
		`{"session":{"Id":"0x00000000000000000000000000000000000000000000000000000000000000ab","Provider":"0x2","ModelAgentId":"0x3","Stake":123456789012345678901234567890,"OpenedAt":1750000000,"EndsAt":1750003599,"ClosedAt":0}}`,
		`{"session":{"Id":"0x00000000000000000000000000000000000000000000000000000000000000ab","OpenedAt":"1","EndsAt":"2","ClosedAt":null}}`,
		`{"sessions":[{"Id":"0x00000000000000000000000000000000000000000000000000000000000000ab","OpenedAt":1,"EndsAt":1e3,"ClosedAt":-1}]}`,
		`{"bids":[{"ID":"0xb","Bid":{"Provider":"0x1","PricePerSecond":"10000000000000000000000","DeletedAt":"0"},"Score":0.5}]}`,
		`{"models":[{"Id":"0x1","Name":"a","Tags":null,"ModelType":"LLM","IsDeleted":true}]}`,
		`{"sessionID":"0x00000000000000000000000000000000000000000000000000000000000000ab"}`, `{"address":"0x00000000000000000000000000000000000000000000000000000000000000ab"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if s, err := decodeSession(body); err == nil && (!isCanonical(s.ID) || s.OpenedAt.Unix() <= 0 || s.EndsAt.Unix() <= 0 || s.EndsAt.Year() > 9999) {
			t.Errorf("decodeSession(%s) = %+v, which has a malformed id or time", body, s)
		}
		if list, err := decodeSessions(body); err == nil {
			for _, s := range list {
				if !isCanonical(s.ID) || s.OpenedAt.IsZero() || s.EndsAt.IsZero() {
					t.Errorf("decodeSessions(%s) has %+v, with a malformed id or time", body, s)
				}
			}
		}
		if bids, err := decodeBids(body); err == nil {
			for _, b := range bids {
				if b.Provider == "" {
					t.Errorf("decodeBids(%s) has %+v, without a provider", body, b)
				}
			}
		}
		if id, err := decodeOpened(body); err == nil && !isCanonical(id) {
			t.Errorf("decodeOpened(%s) = %q, which is not canonical", body, id)
		}
		if address, err := decodeWallet(body); err == nil && address == "" {
			t.Errorf("decodeWallet(%s) has no address and no error", body)
		}
		_, _ = decodeModels(body)
	})
}

func FuzzClassify(f *testing.F) {
	for _, seed := range []struct {
		status int
		body   string
	}{
		{500, `{"error":"provider request failed: provider error: session expired"}`},
		{400, `{"providerModelError":{"error":{"message":"x","code":7,"param":null,"type":"t"}},"statusCode":503}`},
		{401, `{"providerModelError":null}`}, {344, `{"providerModelError":{}}`}, {599, "\xff"}, {200, `{"error":{"error":"\"{}\""}}`}, {-1, ``},
		{400, `{"providerModelError":"error, status code: 429, message: {\"error\":{\"message\":\"slow\"}}"}`},
	} {
		f.Add(seed.status, []byte(seed.body), "7")
	}
	const secret = "Canary-8d2f"
	c, err := New(Options{URL: "http://node.example.com:8082", Password: secret})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, body []byte, retryAfter string) {
		e := c.Classify(status, http.Header{"Retry-After": {retryAfter}}, body)
		switch e.Cause {
		case outcome.Client, outcome.Model, outcome.Node, outcome.Provider, outcome.Session:
		default:
			t.Errorf("Classify(%d, %s) has the unexpected cause %q", status, body, e.Cause)
		}
		if e.Status < 400 || e.Status > 599 || e.Status == 401 || e.Status == 403 {
			t.Errorf("Classify(%d, %s) has status %d, which no client should get", status, body, e.Status)
		}
		if (e.Expired && e.Cause != outcome.Session) || (e.Final && e.Cause != outcome.Provider) || e.RetryAfter < 0 || e.RetryAfter > 24*time.Hour {
			t.Errorf("Classify(%d, %s) = %+v, whose fields contradict each other or are out of bounds", status, body, e)
		}
		for _, text := range []string{e.Message, e.Code, e.Param, e.Type} {
			if !utf8.ValidString(text) || len(text) > maxMessage || strings.Contains(text, secret) || strings.Contains(text, "node.example.com") {
				t.Errorf("the text %q is too long, not UTF-8, or has a secret", text)
			}
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add("a", "hunter2 is the password", 290)
	f.Add("Basic x", "://", 0)
	f.Fuzz(func(t *testing.T, before, after string, padding int) {
		const secret = "Canary-8d2f"
		r := newRedactor("", secret)
		text := r.clean(strings.Repeat("y", min(max(padding, 0), 1000)) + before + secret + after)
		if strings.Contains(text, secret) || len(text) > maxMessage || !utf8.ValidString(text) {
			t.Errorf("the text %q is too long, not UTF-8, or has the secret", text)
		}
	})
}

// FuzzFindStop compares the adapted body with what encoding/json reads from the original.
func FuzzFindStop(f *testing.F) {
	for _, seed := range []string{`{"stop":"x"}`, `{"a":[{"stop":"y"}],"stop" : "\\\"z"}`, `{"stop":["x"]}`, `{"stop`, `["stop":"x"]`, `{"a":"stop","stop":"b"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		open, length := ChatRequest{Path: "/v1/chat/completions", Body: body}.body()
		adapted, err := io.ReadAll(open())
		if err != nil || len(adapted) != length {
			t.Fatalf("read %d bytes, want the announced %d: %v", len(adapted), length, err)
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(body, &before) != nil {
			return
		}
		if err := json.Unmarshal(adapted, &after); err != nil {
			t.Fatalf("%s became %s: %v", body, adapted, err)
		}
		if bytes.Count(body, []byte(`"stop"`)) > 1 || bytes.Contains(body, []byte(`\u`)) {
			return // of equal or escaped names, encoding/json may take another one than findStop
		}
		stop := bytes.TrimSpace(before["stop"])
		if len(stop) > 0 && stop[0] == '"' {
			stop = append(append([]byte("["), stop...), ']')
		}
		if !bytes.Equal(stop, bytes.TrimSpace(after["stop"])) {
			t.Errorf("%s became %s, want stop to be %s", body, adapted, stop)
		}
	})
}
