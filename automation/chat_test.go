package automation_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// recordingHandler is a host's handler that records the last request.
type recordingHandler struct {
	mu     sync.Mutex
	method string
	header http.Header
	body   [sha256.Size]byte // its hash
	size   int64             // of the body
	length int64             // Content-Length
	calls  int
}

func (s *recordingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.method, s.header, s.size, s.length = r.Method, r.Header.Clone(), n, r.ContentLength
	s.calls++
	copy(s.body[:], h.Sum(nil))
	_, _ = io.WriteString(w, "the host's answer")
}

func TestSessions_PassesThroughRequestsItDoesNotActOn(t *testing.T) {
	t.Parallel()
	optOut := func(h *harness) { h.do("PUT", settingsPath, "alice", `{"is_enabled":false,"session_duration":300}`) }
	doNothing := func(*harness) {}
	for name, tt := range map[string]struct {
		setup   setup
		prepare func(*harness)
		method  string
		key     string
		header  []string
		body    string
	}{
		"the flag is off":                 {setup{flagSQL: `UPDATE feature_flags SET enabled = false`}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"the flag is missing":             {setup{flagSQL: `DELETE FROM feature_flags`}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"the master switch is off":        {setup{config: func(c *automation.Config) { c.FeatureEnabled = false }}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"outside the rollout":             {setup{flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"outside the rollout, no JSON":    {setup{flagSQL: `UPDATE feature_flags SET rollout_percentage = 0`}, doNothing, "POST", "alice", nil, "no JSON"},
		"before Run":                      {setup{skipRun: true}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"the user has opted out":          {setup{}, optOut, "POST", "alice", nil, chatBody("llama")},
		"the user has never opted in":     {setup{config: func(c *automation.Config) { c.DefaultOptIn = false }}, doNothing, "POST", "alice", nil, chatBody("llama")},
		"a GET":                           {setup{}, doNothing, "GET", "alice", nil, ""},
		"a PUT":                           {setup{}, doNothing, "PUT", "alice", nil, chatBody("llama")},
		"no user":                         {setup{}, doNothing, "POST", "", nil, chatBody("llama")},
		"a session of the host's own":     {setup{}, doNothing, "POST", "alice", []string{"session_id", "0x" + strings.Repeat("ab", 32)}, chatBody("llama")},
		"the same, an unknown model":      {setup{}, doNothing, "POST", "alice", []string{"session_id", strings.Repeat("ab", 32)}, chatBody("nonsense")},
		"opted out, with a session":       {setup{}, optOut, "POST", "alice", []string{"session_id", "0x" + strings.Repeat("ab", 32)}, chatBody("llama")},
		"the flag is off, with a session": {setup{flagSQL: `UPDATE feature_flags SET enabled = false`}, doNothing, "POST", "alice", []string{"session_id", "0x12"}, chatBody("llama")},
		"opted out, an unknown model":     {setup{}, optOut, "POST", "alice", nil, chatBody("nonsense")},
		"opted out, a compressed body":    {setup{}, optOut, "POST", "alice", []string{"Content-Encoding", "gzip"}, "\x1f\x8b"},
	} {
		t.Run(name, func(t *testing.T) {
			var got recordingHandler
			tt.setup.next = got.ServeHTTP
			h := newHarness(t, tt.setup)
			tt.prepare(h)
			header := append([]string{"X-Own", "a", "Accept-Encoding", "identity"}, tt.header...)
			r := h.request(tt.method, hostPath, tt.key, tt.body, header...)
			want := r.Header.Clone()
			a := h.send(r)
			if a.status != http.StatusOK || a.body != "the host's answer" {
				t.Fatalf("status %d, body %s; want 200", a.status, a.body)
			}
			for name := range a.header {
				if strings.HasPrefix(name, "X-Automation") {
					t.Errorf("the answer has the header %s", name)
				}
			}
			maps.DeleteFunc(got.header, func(name string, _ []string) bool { return name == "User-Agent" || name == "Content-Length" })
			if diff := cmp.Diff(want, got.header); diff != "" {
				t.Errorf("the handler's request header (-want +got):\n%s", diff)
			}
			if got.body != sha256.Sum256([]byte(tt.body)) || got.method != tt.method {
				t.Errorf("the handler got a %s with a body of %d bytes, want the client's %s with %d bytes", got.method, got.size, tt.method, len(tt.body))
			}
			if s := h.node.Stats(); s.OpenRequests != 0 {
				t.Errorf("%d sessions opened, want none", s.OpenRequests)
			}
		})
	}
}

func TestSessions_OpensOnceAndReuses(t *testing.T) {
	t.Parallel()
	var got recordingHandler
	h := newHarness(t, setup{next: got.ServeHTTP})
	first := h.do("POST", hostPath, "alice", chatBody("LLAMA"))
	id := first.header.Get("X-Automation-Session")
	if first.status != http.StatusOK || id == "" || first.header.Get("X-Automation-Model") != "llama" || got.header.Get("session_id") != id {
		t.Fatalf("status %d, header %v, the handler's request header %v; want 200 and the same session in both", first.status, first.header, got.header)
	}
	if again := h.do("POST", hostPath, "alice", chatBody("")); again.header.Get("X-Automation-Session") != id {
		t.Error("the default model, which is llama, got another session")
	}
	if other := h.do("POST", hostPath, "bob", chatBody("llama")); other.header.Get("X-Automation-Session") == id {
		t.Error("bob got alice's session")
	}
	if other := h.do("POST", hostPath, "alice", chatBody("möwe")); other.header.Get("X-Automation-Model") != "m%C3%B6we" {
		t.Errorf("X-Automation-Model %q, want m%%C3%%B6we", other.header.Get("X-Automation-Model"))
	}
	if s := h.checkNode(); s.Opens != 3 {
		t.Errorf("%d sessions opened, want 3", s.Opens)
	}
}

func TestSessions_SharedScopeServesEveryUser(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.SessionScope = automation.ScopeShared }})
	for _, user := range []string{"alice", "bob", "carol"} {
		if a := h.do("POST", hostPath, user, chatBody("llama")); a.status != http.StatusOK {
			t.Fatalf("status %d, body %s; want 200", a.status, a.body)
		}
		h.untilIdle()
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}

func TestManagedSession_ServesOnlyItsUserWhateverTheFlagSays(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		setup setup
		after string // a statement after alice's session has been opened
	}{
		"the flag is on":         {setup{}, ""},
		"the flag is off":        {setup{}, `UPDATE feature_flags SET enabled = false`},
		"outside the rollout":    {setup{}, `UPDATE feature_flags SET rollout_percentage = 0`},
		"bob has opted out":      {setup{config: func(c *automation.Config) { c.DefaultOptIn = false }}, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES ('bob', false, 600)`},
		"sessions may be shared": {setup{config: func(c *automation.Config) { c.SessionScope = automation.ScopeShared }}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got recordingHandler
			tt.setup.next = got.ServeHTTP
			h := newHarness(t, tt.setup)
			h.do("PUT", settingsPath, "alice", validSettings)
			id := h.chat("alice").header.Get("X-Automation-Session")
			h.untilIdle()
			if tt.after != "" {
				h.execAndRefresh(tt.after)
			}
			shared := h.cfg.SessionScope == automation.ScopeShared // bob may use it as well
			for _, spelling := range []string{id, id[2:], strings.ToUpper(id[2:])} {
				for _, path := range []string{hostPath, chatPath} {
					if a := h.do("POST", path, "bob", chatBody("llama"), "session_id", spelling); !shared && (a.status != http.StatusNotFound || a.code() != "session_not_found") {
						t.Errorf("bob on %s with %s: status %d, body %s; want 404 session_not_found", path, spelling, a.status, a.body)
					}
					a := h.do("POST", path, "alice", chatBody("llama"), "session_id", spelling)
					if a.status != http.StatusOK || a.header.Get("X-Automation-Session") != id {
						t.Errorf("alice on %s with %s: status %d, body %s; want 200 on her session", path, spelling, a.status, a.body)
					}
					h.untilIdle()
				}
				calls := got.calls
				if a := h.do("POST", hostPath, "", chatBody("llama"), "session_id", spelling); a.status != http.StatusNotFound || got.calls != calls {
					t.Errorf("no user with %s: status %d, body %s; want 404, and no call of the handler", spelling, a.status, a.body)
				}
			}
			if s := h.checkNode(); s.Opens != 1 {
				t.Errorf("%d sessions opened, want 1", s.Opens)
			}
		})
	}
}

func TestManagedSession_ServesOnlyItsUserWhileTheMasterSwitchIsOff(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shared.db")
	open := func(t testing.TB) *sqlx.DB { return openSQLite(t, path) }
	on := newHarness(t, setup{db: open})
	id := on.chat("alice").header.Get("X-Automation-Session")
	on.untilIdle()
	var got recordingHandler
	off := newHarness(t, setup{db: open, next: got.ServeHTTP, config: func(c *automation.Config) { c.FeatureEnabled = false }})
	if a := off.do("POST", hostPath, "bob", chatBody("llama"), "session_id", id[2:]); a.status != http.StatusNotFound || got.calls != 0 {
		t.Errorf("bob with alice's session: status %d, body %s; want 404, and no call of the handler", a.status, a.body)
	}
	if a := off.do("POST", hostPath, "bob", chatBody("llama"), "session_id", strings.Repeat("ab", 32)); a.status != http.StatusOK || got.calls != 1 {
		t.Errorf("bob with a session of his own: status %d, body %s; want 200", a.status, a.body)
	}
	if err := off.db.Close(); err != nil {
		t.Fatal(err)
	}
	// A module that is switched off lets requests through without the database as well.
	if a := off.do("POST", hostPath, "bob", chatBody("llama"), "session_id", strings.Repeat("ab", 32)); a.status != http.StatusOK || got.calls != 2 {
		t.Errorf("without the database: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestSessionID_IsRefusedIfInvalid(t *testing.T) {
	t.Parallel()
	var got recordingHandler
	h := newHarness(t, setup{next: got.ServeHTTP})
	for name, id := range map[string]string{
		"a word": "mine", "not UTF-8": "\xff\xfe", "too short": "0x12", "too long": strings.Repeat("0", 4000),
		"not hex": "0x" + strings.Repeat("g", 64), "in quotes": `"` + strings.Repeat("ab", 32) + `"`,
	} {
		for _, path := range []string{hostPath, chatPath} {
			a := h.do("POST", path, "alice", chatBody("llama"), "session_id", id)
			if a.status != http.StatusBadRequest || a.code() != "invalid_session_id" {
				t.Errorf("%s on %s: status %d, body %s; want 400 invalid_session_id", name, path, a.status, a.body)
			}
		}
	}
	r := h.request("POST", chatPath, "alice", chatBody("llama"))
	r.Header["Session_id"] = []string{strings.Repeat("ab", 32), strings.Repeat("cd", 32)}
	if a := h.send(r); a.code() != "invalid_session_id" {
		t.Errorf("two session ids: status %d, body %s; want 400 invalid_session_id", a.status, a.body)
	}
	if got.calls != 0 || h.node.Stats().OpenRequests != 0 {
		t.Errorf("%d requests reached the handler, and the node was asked for %d sessions; want none", got.calls, h.node.Stats().OpenRequests)
	}
}

func TestSessions_RefusesNamedSessionsOfOtherUsers(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	id := h.do("POST", hostPath, "alice", chatBody("llama")).header.Get("X-Automation-Session")
	h.untilIdle()
	for _, spelling := range []string{id, "0X" + strings.ToUpper(id[2:]), id[2:]} {
		a := h.do("POST", hostPath, "alice", "no JSON at all", "session_id", spelling)
		if a.status != http.StatusOK || a.body != id || a.header.Get("X-Automation-Session") != id || a.header.Get("X-Automation-Model") != "" {
			t.Errorf("alice with %s: status %d, body %s, header %v; want 200 on her session, without a model", spelling, a.status, a.body, a.header)
		}
		for _, path := range []string{hostPath, chatPath} {
			a := h.do("POST", path, "bob", chatBody("llama"), "session_id", spelling)
			if a.status != http.StatusNotFound || a.code() != "session_not_found" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("bob on %s: status %d, body %s; want 404 session_not_found", path, a.status, a.body)
			}
		}
	}
	h.do("DELETE", sessionsPath+"/"+id, "alice", "")
	if a := h.do("POST", hostPath, "alice", chatBody("llama"), "session_id", id); a.status != http.StatusNotFound || a.code() != "session_ended" {
		t.Errorf("alice with her ended session: status %d, body %s; want 404 session_ended", a.status, a.body)
	}
	if s := h.node.Stats(); s.Opens != 1 || s.Overlaps != 0 {
		t.Errorf("%d sessions opened, %d overlapping requests; want 1 and 0", s.Opens, s.Overlaps)
	}
}

func TestSessions_WaitsForANamedSessionInUse(t *testing.T) {
	t.Parallel()
	hold, entered := make(chan struct{}), make(chan string, 2)
	h := newHarness(t, setup{next: func(_ http.ResponseWriter, r *http.Request) { entered <- r.Header.Get("session_id"); <-hold }})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // otherwise the server's Close waits for the handler
	var wg sync.WaitGroup
	first, second := h.request("POST", hostPath, "alice", chatBody("llama")), h.request("POST", hostPath, "alice", "")
	wg.Go(func() { h.send(first) })
	id := <-entered
	second.Header.Set("session_id", id)
	wg.Go(func() { h.send(second) })
	select {
	case <-entered:
		t.Error("the handler has two requests on one session at once")
	case <-time.After(100 * time.Millisecond): // long enough for a second request to get through
	}
	release()
	if got := <-entered; got != id {
		t.Errorf("the second request got the session %s, want %s", got, id)
	}
	wg.Wait()
}

func TestSessions_PassesTheBodyByteForByte(t *testing.T) {
	t.Parallel()
	var got recordingHandler
	h := newHarness(t, setup{next: got.ServeHTTP})
	const maxBytes = 32 << 20 // the default of AUTOMATION_MAX_BODY_BYTES
	garbage := func(n int) string { return strings.Repeat(`"é\"\\ `, n/8+1)[:n] }
	filler := func(n int) string { return strings.Repeat("x", n) }
	// Bodies of n bytes that have the model first or last.
	first := func(n int) string { return `{"model":"llama","x":"` + filler(n-25) + `"}` + "\n" }
	last := func(n int) string { return `{"x":"` + filler(n-24) + `", "model":"llama"}` }
	for name, body := range map[string]string{
		"a small body":            chatBody("llama"),
		"model missing":           `{"messages":[]}`,
		"model null":              `{"model":null,"x":1}`,
		"model empty":             `{"model":""}`,
		"model twice":             `{"model":"llama","model":"whisper"}`,
		"model escaped":           `{"mod\u0065l":"ll\u0061ma"}`,
		"model nested before":     `{"x":{"model":"whisper"},"model":"llama"}`,
		"no JSON after the model": `{"model":"llama",` + garbage(1000),
		"64 KiB, model first":     first(64 << 10),
		"64 KiB, model last":      last(64 << 10),
		"64 KiB, model missing":   `{"x":"` + filler(64<<10) + `"}`,
		"32 MB, model first":      first(maxBytes),
		"32 MB, model last":       last(maxBytes),
		"spaces before and after": "\n\t " + chatBody("llama") + "   \n",
	} {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s chunked=%v", name, chunked), func(t *testing.T) {
				h.t = t
				got.calls = 0
				r := h.request("POST", hostPath, "alice", body)
				if chunked {
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), -1
				}
				length := r.ContentLength
				a := h.send(r)
				if a.status != http.StatusOK || a.header.Get("X-Automation-Model") != "llama" {
					t.Fatalf("status %d, body %s, header %v; want 200", a.status, a.body, a.header)
				}
				if got.calls != 1 || got.size != int64(len(body)) || got.body != sha256.Sum256([]byte(body)) || got.length != length {
					t.Errorf("in %d calls the handler got %d bytes with Content-Length %d, want 1 call with the %d bytes sent and Content-Length %d", got.calls, got.size, got.length, len(body), length)
				}
			})
		}
	}
	h.t = t
	if s := h.node.Stats(); s.Opens > 4 || s.OpensByModel[proxyroutertest.ModelID("whisper")] != 0 {
		t.Errorf("opens by model %v, want at most 4 in all and none of whisper", s.OpensByModel)
	}
}

func TestSessions_FindsTheModelAnywhereInAForm(t *testing.T) {
	t.Parallel()
	var got recordingHandler
	h := newHarness(t, setup{next: got.ServeHTTP, withFeed: true})
	file := strings.Repeat("\x00\xff--b\r\n", 20_000)
	part := func(head, body string) string {
		return "--b\r\nContent-Disposition: form-data; " + head + "\r\n\r\n" + body + "\r\n"
	}
	sound, model := part(`name="file"; filename="a.wav"`, file), part(`name="model"`, "whisper")
	for name, body := range map[string]string{"before the file": model + sound, "after the file": sound + model} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			body += "--b--\r\n"
			a := h.do("POST", "/host/v1/audio/transcriptions", "alice", body, "Content-Type", `multipart/form-data; boundary=b`)
			if a.status != http.StatusOK || a.header.Get("X-Automation-Model") != "whisper" || got.body != sha256.Sum256([]byte(body)) {
				t.Errorf("status %d, body %s, header %v; want 200 on the model whisper, and an unchanged body", a.status, a.body, a.header)
			}
		})
	}
}

func TestSessions_RefusesABodyWithoutAModel(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	large := `{"x":"` + strings.Repeat("x", limit) + `","model":"llama"}`
	for name, tt := range map[string]struct {
		body   string
		header []string
		status int
		code   string
	}{
		"empty":                   {"", nil, 400, "invalid_body"},
		"no JSON":                 {"hello", nil, 400, "invalid_body"},
		"a list":                  {"[]", nil, 400, "invalid_body"},
		"a number for the model":  {`{"model":7}`, nil, 400, "invalid_body"},
		"a name that is too long": {`{"model":"` + strings.Repeat("m", 2000) + `"}`, nil, 400, "invalid_body"},
		"an incomplete form":      {"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhis", []string{"Content-Type", "multipart/form-data; boundary=b"}, 400, "invalid_body"},
		"compressed":              {"\x1f\x8b", []string{"Content-Encoding", "gzip"}, 415, "unsupported_media_type"},
		"beyond the limit":        {large, nil, 413, "body_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			var got recordingHandler
			h := newHarness(t, setup{next: got.ServeHTTP, config: func(c *automation.Config) { c.MaxBodyBytes = limit }})
			for _, path := range []string{hostPath, chatPath} {
				a := h.do("POST", path, "alice", tt.body, tt.header...)
				if a.status != tt.status || a.code() != tt.code {
					t.Errorf("%s: status %d, body %s; want %d %s", path, a.status, a.body, tt.status, tt.code)
				}
			}
			if got.calls != 0 || h.node.Stats().OpenRequests != 0 {
				t.Errorf("%d requests reached the handler, and the node was asked for %d sessions; want none", got.calls, h.node.Stats().OpenRequests)
			}
		})
	}
}

func TestSessions_LimitsOnlyTheBytesItReads(t *testing.T) {
	t.Parallel()
	var got recordingHandler
	h := newHarness(t, setup{next: got.ServeHTTP, config: func(c *automation.Config) { c.MaxBodyBytes = 1024 }})
	body := `{"model":"llama","x":"` + strings.Repeat("x", 100<<10) + `"}`
	if a := h.do("POST", hostPath, "alice", body); a.status != http.StatusOK || got.body != sha256.Sum256([]byte(body)) {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	// Forward keeps the whole body for a retry, so its limit applies to the whole body.
	if a := h.do("POST", chatPath, "alice", body); a.status != http.StatusRequestEntityTooLarge || a.code() != "body_too_large" {
		t.Errorf("status %d, body %s; want 413 body_too_large", a.status, a.body)
	}
}

func TestSessions_ExplainsAModelItCannotServe(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{withFeed: true})
	a := h.do("POST", hostPath, "alice", chatBody("lama"))
	e, _ := a.json(t)["error"].(object)
	want := object{"message": `The model "lama" is not known. Did you mean llama?`, "type": "invalid_request_error", "code": "model_not_found",
		"param": "model", "suggestions": []any{"llama"}}
	if diff := cmp.Diff(want, e); diff != "" || a.status != http.StatusBadRequest {
		t.Errorf("status %d, want 400; error (-want +got):\n%s", a.status, diff)
	}
	a = h.do("POST", "/host/v1/embeddings", "alice", chatBody("llama"))
	e, _ = a.json(t)["error"].(object)
	want = object{"message": `The model "llama" is of type LLM; this route takes EMBEDDING.`, "type": "invalid_request_error", "code": "model_type_mismatch",
		"param": "model", "resolved_model": "llama", "resolved_id": proxyroutertest.ModelID("llama"), "requested_type": "EMBEDDING", "model_type": "LLM"}
	if diff := cmp.Diff(want, e); diff != "" || a.status != http.StatusBadRequest {
		t.Errorf("status %d, want 400; error (-want +got):\n%s", a.status, diff)
	}
	if a := h.do("POST", hostPath, "alice", chatBody("something else entirely")); a.code() != "model_not_found" {
		t.Errorf("status %d, body %s; want 400 model_not_found", a.status, a.body)
	}
	if n := h.node.Stats().OpenRequests; n != 0 {
		t.Errorf("%d sessions opened, want none", n)
	}
}

func TestSessions_ServesUnknownModelsByTheDefaultIfConfigured(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.UnknownModel = automation.UnknownModelDefault }})
	a := h.do("POST", hostPath, "alice", chatBody("something else entirely"))
	if a.status != http.StatusOK || a.header.Get("X-Automation-Model") != "llama" {
		t.Errorf("status %d, body %s, header %v; want 200", a.status, a.body, a.header)
	}
}

func TestSessions_DoesNotBufferStreams(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	h := newHarness(t, setup{next: func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		if f, ok := w.(http.Flusher); !ok {
			t.Error("the ResponseWriter is no http.Flusher")
		} else {
			f.Flush()
		}
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Error(err)
		}
		<-more
		_, _ = io.WriteString(w, "second\n")
	}})
	resp, err := h.server.Client().Do(h.request("POST", hostPath, "alice", chatBody("llama")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("first line %q, error %v; want it before the handler writes more", line, err)
	}
	if resp.Header.Get("X-Automation-Session") == "" {
		t.Error("the answer's header has no X-Automation-Session")
	}
	close(more)
	if line, err := lines.ReadString('\n'); err != nil || line != "second\n" {
		t.Errorf("second line %q, error %v", line, err)
	}
}

func TestSessions_ReleasesTheSessionHoweverTheHandlerEnds(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]http.HandlerFunc{
		"the handler panics": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"the handler panics within the answer": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"the handler hijacks the connection": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_ = conn.Close()
		},
		"the client leaves": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			fail := true
			entered := make(chan struct{})
			h := newHarness(t, setup{next: func(w http.ResponseWriter, r *http.Request) {
				if fail {
					fail = false
					close(entered)
					next(w, r)
				}
			}})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			done := make(chan struct{})
			r := h.request("POST", hostPath, "alice", chatBody("llama")).WithContext(ctx)
			go func() {
				defer close(done)
				if resp, err := h.server.Client().Do(r); err == nil {
					_ = resp.Body.Close()
				}
			}()
			<-entered
			if strings.Contains(name, "client") {
				leave()
			}
			<-done
			h.untilIdle()
			if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
			// If the node may still be working for the handler, the session cools
			// down, and the next request gets another one unless it came late.
			maxOpens := 2
			if strings.Contains(name, "hijack") {
				maxOpens = 1
			}
			if s := h.checkNode(); s.Opens > maxOpens {
				t.Errorf("%d sessions opened, want at most %d", s.Opens, maxOpens)
			}
		})
	}
}

func TestSessions_KeepsTheSessionIfTheClientLeavesDuringTheOpen(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{OpenLatency: 200 * time.Millisecond}})
	ctx, leave := context.WithCancel(t.Context())
	r := h.request("POST", hostPath, "alice", chatBody("llama")).WithContext(ctx)
	done := make(chan error)
	go func() { _, err := h.server.Client().Do(r); done <- err }() //nolint:bodyclose // there is no answer
	h.until("the node is opening the session", func() bool { return h.node.Stats().OpenRequests == 1 })
	leave()
	if err := <-done; err == nil {
		t.Fatal("the request of the client that left was answered, want an error")
	}
	if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}

func TestSessions_ExplainsAnExhaustedBudget(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{config: func(c *automation.Config) { c.MaxOpensPerHour = 1 }})
	h.do("POST", hostPath, "alice", chatBody("llama"))
	for _, path := range []string{hostPath, chatPath} {
		a := h.do("POST", path, "alice", chatBody("Qwen 3:web"))
		if a.status != http.StatusTooManyRequests || a.code() != "session_budget_exceeded" || a.header.Get("Retry-After") == "" {
			t.Errorf("status %d, body %s, header %v; want 429 session_budget_exceeded with Retry-After", a.status, a.body, a.header)
		}
		// Without X-Should-Retry OpenAI's SDKs would sleep for the whole hour.
		if a.header.Get("X-Should-Retry") != "false" || !strings.Contains(a.body, "/api/v1/automation/status") {
			t.Errorf("body %s, header %v; want X-Should-Retry false, and the status route in the message", a.body, a.header)
		}
	}
	if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK {
		t.Errorf("a request on the open session: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestSessions_LetANewUserTryManyModels(t *testing.T) {
	t.Parallel()
	defaults := automation.DefaultConfig()
	models := map[string]string{}
	name := func(i int) string { return fmt.Sprint("model-", i) }
	for i := range 10 {
		models[name(i)] = proxyroutertest.ModelID(name(i))
	}
	models["default"] = models[name(0)]
	h := newHarness(t, setup{config: func(c *automation.Config) {
		writeJSON(t, c.MappingsFile, models)
		c.MaxOpensPerHour, c.MaxOpensPerDay = defaults.MaxOpensPerHour, defaults.MaxOpensPerDay
	}})
	budget := func() object { return h.get(statusPath, "newcomer").json(t)["budget"].(object) }
	for i := range 8 {
		if b := budget(); b["next_free_at"] != nil {
			t.Errorf("before model %d the budget is %v, want no next_free_at", i+1, b)
		}
		if a := h.do("POST", chatPath, "newcomer", chatBody(name(i))); a.status != http.StatusOK {
			t.Fatalf("model %d: status %d, body %s; want 200", i+1, a.status, a.body)
		}
	}
	if b := budget(); b["sessions_held"] != 4.0 || b["sessions_max"] != 4.0 || b["next_free_at"] == nil {
		t.Errorf("after eight models the budget is %v, want 4 of 4 sessions held and a next_free_at", b)
	}
	refused := h.do("POST", chatPath, "newcomer", chatBody(name(8)))
	wait, err := strconv.Atoi(refused.header.Get("Retry-After"))
	if refused.status != http.StatusTooManyRequests || refused.code() != "session_budget_exceeded" || refused.header.Get("X-Should-Retry") != "false" {
		t.Fatalf("the ninth model: status %d, body %s, header %v; want 429 session_budget_exceeded", refused.status, refused.body, refused.header)
	}
	// The first session stops counting half a minute before its end.
	if d := time.Hour - time.Duration(wait)*time.Second; err != nil || d < -time.Minute || d > 5*time.Minute {
		t.Errorf("Retry-After is %d s, error %v; want about an hour", wait, err)
	}
	// Every model tried before still serves, and ending a session, as the message suggests, frees a place.
	for i := range 8 {
		if a := h.do("POST", chatPath, "newcomer", chatBody(name(i))); a.status != http.StatusOK {
			t.Errorf("model %d once more: status %d, body %s; want 200", i+1, a.status, a.body)
		}
	}
	if !strings.Contains(refused.body, "DELETE /api/v1/automation/sessions") {
		t.Errorf("the message does not say how to end a session: %s", refused.body)
	}
	held := h.get(sessionsPath, "newcomer").json(t)["sessions"].([]any)
	if a := h.do("DELETE", sessionsPath+"/"+held[0].(object)["id"].(string), "newcomer", ""); a.status != http.StatusOK {
		t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	h.until("the ninth model is served in the place of the ended session", func() bool {
		return h.do("POST", chatPath, "newcomer", chatBody(name(8))).status == http.StatusOK
	})
	if s := h.node.Stats(); s.Opens != 9 || s.EarlyCloses != 1 { // the one that the user ended
		t.Errorf("%d sessions opened, %d closed early; want 9 and 1", s.Opens, s.EarlyCloses)
	}
}

func TestSessions_NamesEachLimit(t *testing.T) {
	t.Parallel()
	for want, config := range map[string]func(*automation.Config){
		"this hour":            func(c *automation.Config) { c.MaxOpensPerHour = 1 },
		"today":                func(c *automation.Config) { c.MaxOpensPerDay = 1 },
		"The gateway holds as": func(c *automation.Config) { c.MaxOpenSessions = 1 },
	} {
		h := newHarness(t, setup{config: config})
		h.do("POST", hostPath, "alice", chatBody("llama"))
		a := h.do("POST", hostPath, "alice", chatBody("whisper"))
		if a.status != http.StatusTooManyRequests || !strings.Contains(a.body, want) || a.header.Get("Retry-After") == "" {
			t.Errorf("status %d, body %s; want 429 with Retry-After and %q in the message", a.status, a.body, want)
		}
	}
}
