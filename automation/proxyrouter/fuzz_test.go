package proxyrouter

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

func canonical(id string) bool {
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
		if s, err := decodeSession(body); err == nil && (!canonical(s.ID) || s.OpenedAt.Unix() <= 0 || s.EndsAt.Unix() <= 0 || s.EndsAt.Year() > 9999) {
			t.Errorf("session %+v from %s", s, body)
		}
		if list, err := decodeSessions(body); err == nil {
			for _, s := range list {
				if !canonical(s.ID) || s.OpenedAt.IsZero() || s.EndsAt.IsZero() {
					t.Errorf("session %+v from %s", s, body)
				}
			}
		}
		if bids, err := decodeBids(body); err == nil {
			for _, b := range bids {
				if b.Provider == "" {
					t.Errorf("bid %+v from %s", b, body)
				}
			}
		}
		if id, err := decodeOpened(body); err == nil && !canonical(id) {
			t.Errorf("opened %q from %s", id, body)
		}
		if address, err := decodeWallet(body); err == nil && address == "" {
			t.Errorf("wallet %q from %s", address, body)
		}
		_, _ = decodeModels(body)
	})
}

func FuzzClassify(f *testing.F) {
	f.Add(500, []byte(`{"error":"provider request failed: provider error: session expired"}`))
	f.Add(400, []byte(`{"providerModelError":{"error":{"message":"x"}},"statusCode":503}`))
	f.Add(401, []byte(`{"providerModelError":null}`))
	f.Add(344, []byte(`{"providerModelError":null}`))
	f.Add(344, []byte(`{"providerModelError":{}}`))
	f.Add(599, []byte("\xff"))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		e := Classify(status, body)
		if status >= 300 && status <= 599 && (e.Status < 400 || e.Status > 599 || e.Status == 401 || e.Status == 403) {
			t.Errorf("%d %s: answer with %d", status, body, e.Status)
		}
		if !utf8.ValidString(e.Message) || len(e.Message) > maxMessage+len("…") {
			t.Errorf("message %q", e.Message)
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
		if strings.Contains(text, secret) || len(text) > maxMessage+len("…") || !utf8.ValidString(text) {
			t.Errorf("%q", text)
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
			t.Fatalf("%d bytes, want %d, %v", len(adapted), length, err)
		}
		var before, after map[string]json.RawMessage
		if json.Unmarshal(body, &before) != nil {
			return
		}
		if err := json.Unmarshal(adapted, &after); err != nil {
			t.Fatalf("%s became %s: %v", body, adapted, err)
		}
		if bytes.Count(body, []byte(`"stop"`)) > 1 || bytes.Contains(body, []byte(`\u`)) {
			return // which of two members counts is not ours to say
		}
		stop := bytes.TrimSpace(before["stop"])
		if len(stop) > 0 && stop[0] == '"' {
			stop = append(append([]byte("["), stop...), ']')
		}
		if !bytes.Equal(stop, bytes.TrimSpace(after["stop"])) {
			t.Errorf("%s became %s", body, adapted)
		}
	})
}
