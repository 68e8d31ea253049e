package automation_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// streamBody returns the body of a chat request that asks for a stream.
func streamBody(model, content string) string {
	text, _ := json.Marshal(map[string]any{"model": model, "stream": true, "messages": []any{map[string]any{"role": "user", "content": content}}})
	return string(text)
}

func TestForward_SendsRequestsOfAllKinds(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{withFeed: true})
	form := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n" +
		"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n"
	for _, tt := range []struct {
		path, body, media string
		want, wantMedia   string
	}{
		{"chat/completions", chatBody("llama"), "application/json", `"You said: hello"`, "application/json"},
		{"chat/completions", streamBody("llama", "one two"), "application/json", "data: [DONE]\n\n", "text/event-stream"},
		{"embeddings", `{"model":"embedder","input":"x"}`, "application/json", `"embedding":[`, "application/json"},
		{"audio/transcriptions", form, "multipart/form-data; boundary=b", "Transcript of a.wav, 4 bytes.", "application/json"},
		{"audio/speech", `{"model":"möwe","input":"krah"}`, "application/json", "RIFF", "audio/wav"},
	} {
		a := h.do("POST", "/api/v1/"+tt.path, "alice", tt.body, "Content-Type", tt.media)
		if a.status != http.StatusOK || !strings.Contains(a.body, tt.want) || !strings.HasPrefix(a.header.Get("Content-Type"), tt.wantMedia) {
			t.Errorf("%s: status %d, body %.300s, header %v; want 200, %q in the body, and %s", tt.path, a.status, a.body, a.header, tt.want, tt.wantMedia)
		}
		if a.header.Get("X-Automation-Session") == "" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: header %v, want X-Automation-Session and X-Request-Id", tt.path, a.header)
		}
	}
	h.checkNode()
}

// The node lacks some of OpenAI's routes. The first request to such a route pays
// for a session, and its 404 shows that the route is missing; later requests do not pay.
func TestForward_PaysOnceForARouteThatTheNodeLacks(t *testing.T) {
	t.Parallel()
	var clockOffset atomic.Int64 // in nanoseconds
	h := newHarness(t, setup{withFeed: true, options: func(o *automation.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(clockOffset.Load())) }
	}})
	form := "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b--\r\n"
	routes := []struct{ path, body, media string }{
		{"completions", `{"model":"llama","prompt":"x"}`, "application/json"},
		{"responses", `{"model":"llama","input":"x"}`, "application/json"},
		{"audio/translations", form, "multipart/form-data; boundary=b"},
	}
	for _, tt := range routes {
		for i := range 3 {
			a := h.do("POST", "/api/v1/"+tt.path, fmt.Sprint(tt.path, i), tt.body, "Content-Type", tt.media)
			if a.status != http.StatusNotFound || a.code() != "unknown_url" || !strings.Contains(a.body, "does not have this route") {
				t.Errorf("%s: status %d, body %s; want 404 unknown_url", tt.path, a.status, a.body)
			}
		}
	}
	if s := h.checkNode(); s.Opens != len(routes) {
		t.Errorf("%d sessions opened, want %d: one for each missing route", s.Opens, len(routes))
	}
	// The node may have been updated meanwhile.
	clockOffset.Store(int64(time.Hour))
	h.do("POST", "/api/v1/completions", "late", routes[0].body)
	if s := h.checkNode(); s.Opens != len(routes)+1 {
		t.Errorf("an hour later: %d sessions opened, want %d, because the route is tried again", s.Opens, len(routes)+1)
	}
}

// The chat route is never remembered as missing, because then one 404 would refuse
// all chats for ten minutes.
func TestForward_TriesTheChatRouteAgainAfterA404(t *testing.T) {
	t.Parallel()
	simulated := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	var failed atomic.Bool
	h := newHarness(t, setup{config: answerForwarded(t, simulated, func(w http.ResponseWriter, _ *http.Request) {
		if !failed.Swap(true) {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"choices":[]}`)
	})})
	for _, want := range []int{http.StatusNotFound, http.StatusOK} {
		if a := h.chat("alice"); a.status != want {
			t.Errorf("status %d, body %s; want %d", a.status, a.body, want)
		}
	}
}

// answerForwarded returns the configuration for a node that answers forwarded requests
// with answer, and all others as the simulated node does.
func answerForwarded(t *testing.T, simulated *proxyroutertest.Server, answer http.HandlerFunc) func(*automation.Config) {
	t.Helper()
	node := newAnsweringNode(t, simulated, answer)
	return func(c *automation.Config) { c.ProxyRouterURL = node.URL }
}

func TestForward_ReusesTheSessionForAnImmediateNextRequest(t *testing.T) {
	t.Parallel()
	large := `{"x":"` + strings.Repeat("x", 1<<20) + `"}`
	for name, answer := range map[string]http.HandlerFunc{
		"after a small answer": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) },
		"after a large one": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(large)))
			_, _ = io.WriteString(w, large)
		},
		"after a stream": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {}\n\n")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			simulated := proxyroutertest.NewServer(t, proxyroutertest.Options{})
			h := newHarness(t, setup{config: answerForwarded(t, simulated, answer)})
			served := 0
			send := func() (ok bool) {
				// The client reads only as far as it must: to the Content-Length, or to [DONE].
				resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", chatBody("llama")))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if resp.StatusCode == http.StatusServiceUnavailable { // the database of a loaded machine may be too slow
					return false
				}
				if resp.ContentLength >= 0 {
					_, err = io.CopyN(io.Discard, resp.Body, resp.ContentLength)
				} else {
					lines := bufio.NewScanner(resp.Body)
					for lines.Scan() && lines.Text() != "data: [DONE]" {
					}
					err = lines.Err()
				}
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Fatalf("status %s, error %v; want 200 and no error", resp.Status, err)
				}
				served++
				return true
			}
			h.until("30 requests are served", func() bool {
				for served < 30 && send() {
				}
				return served == 30
			})
			if s := simulated.Stats(); s.Opens != 1 {
				t.Errorf("%d sessions opened, want 1; the log:\n%s", s.Opens, h.log)
			}
		})
	}
}

// openIdleSession opens a session for alice, waits until it is idle, and returns its
// id.
func (h *harness) openIdleSession() string {
	h.t.Helper()
	a := h.chat("alice")
	if a.status != http.StatusOK {
		h.t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	h.untilIdle()
	return a.header.Get("X-Automation-Session")
}

func TestForward_ReplacesASessionThatEndedOnTheChain(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	first := h.openIdleSession()
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Times: 1, Text: "provider request failed: provider error: session expired"})
	h.closeAtNode(first)
	a := h.chat("alice")
	second := a.header.Get("X-Automation-Session")
	if a.status != http.StatusOK || second == first || !strings.Contains(a.body, "You said") {
		t.Fatalf("status %d, body %s on session %s; want 200 on another session than %s", a.status, a.body, second, first)
	}
	h.untilIdle()
	if a := h.chat("alice"); a.header.Get("X-Automation-Session") != second {
		t.Errorf("the next chat used %s, want the replacement %s", a.header.Get("X-Automation-Session"), second)
	}
	if s := h.node.Stats(); s.Opens != 2 {
		t.Errorf("%d sessions opened, want 2", s.Opens)
	}
	if !h.log.has("session ended on the chain", "closed") {
		t.Errorf("the log does not say that the session ended on the chain; the log:\n%s", h.log)
	}
}

func TestForward_InitiatesASessionThatTheProviderDeniesBeforeReplacingIt(t *testing.T) {
	t.Parallel()
	denied := proxyroutertest.Fault{Op: proxyroutertest.OpChat, Text: "provider request failed: provider error: session expired"}
	t.Run("the initiation repairs it", func(t *testing.T) {
		h := newHarness(t, setup{node: oneProvider})
		id := h.openIdleSession()
		denied := denied
		denied.Times = 1
		h.node.Inject(denied)
		if a := h.chat("alice"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != id {
			t.Errorf("status %d, body %s on session %s; want 200 on %s", a.status, a.body, a.header.Get("X-Automation-Session"), id)
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d sessions opened, want 1, because the session is open on the chain", s.Opens)
		}
	})
	t.Run("the initiation does not repair it", func(t *testing.T) {
		h := newHarness(t, setup{node: oneProvider})
		id := h.openIdleSession()
		h.node.Expire(id)
		a := h.chat("alice")
		if a.status != http.StatusOK || a.header.Get("X-Automation-Session") == id {
			t.Errorf("status %d, body %s on session %s; want 200 on another session", a.status, a.body, a.header.Get("X-Automation-Session"))
		}
		h.untilIdle()
		if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != 2 {
			t.Errorf("%d sessions in service, want 2, because nothing proves that the first one is broken", n)
		}
		// Later requests use the replacement and pay nothing.
		for range 3 {
			if a := h.chat("alice"); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
		}
		if s := h.checkNode(); s.Opens != 2 {
			t.Errorf("%d sessions opened, want 2", s.Opens)
		}
	})
}

func TestForward_KeepsASessionWhileTheChainCannotBeAsked(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	id := h.openIdleSession()
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Text: "session not found"})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpGet, Text: "rpc error"})
	if a := h.chat("alice"); a.status != http.StatusServiceUnavailable || a.code() != "session_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, body %s; want 503 session_unavailable with Retry-After", a.status, a.body)
	}
	h.node.ClearFaults()
	h.untilIdle()
	if a := h.chat("alice"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != id {
		t.Errorf("afterwards: status %d, body %s on session %s; want 200 on %s", a.status, a.body, a.header.Get("X-Automation-Session"), id)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}

// A request pays for at most one session, and replacements of broken sessions have a
// budget of their own.
func TestForward_PaysForFailuresWithinTheirBudget(t *testing.T) {
	t.Parallel()
	t.Run("a failing first request pays once", func(t *testing.T) {
		h := newHarness(t, setup{})
		h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"})
		if a := h.chat("alice"); a.status != http.StatusBadGateway {
			t.Errorf("status %d, body %s; want 502", a.status, a.body)
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d sessions opened, want 1", s.Opens)
		}
	})
	t.Run("many failing requests pay for at most the budget's replacements", func(t *testing.T) {
		h := newHarness(t, setup{config: func(c *automation.Config) { c.MaxReplacementsPerHour, c.MaxOpensPerHour = 2, 10 }})
		h.openIdleSession()
		h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"})
		for range 12 {
			if a := h.chat("alice"); a.status != http.StatusBadGateway {
				t.Errorf("status %d, body %s; want 502", a.status, a.body)
			}
		}
		if s := h.checkNode(); s.Opens > 3 {
			t.Errorf("%d sessions opened, want at most 3", s.Opens)
		}
		if b := h.get(statusPath, "alice").json(t)["budget"].(object); b["opens_left_hour"] != 9.0 {
			t.Errorf("budget %v, want 9 opens left: replacements are not charged to the user", b)
		}
		h.node.ClearFaults()
		if a := h.chat("alice"); a.status != http.StatusOK {
			t.Errorf("after the failure: status %d, body %s; want 200", a.status, a.body)
		}
	})
	t.Run("the model's own errors pay for nothing", func(t *testing.T) {
		h := newHarness(t, setup{})
		id := h.openIdleSession()
		for _, status := range []int{400, 422, 429, 500, 503} {
			h.node.Inject(proxyroutertest.ProviderModelError(status, "the model says so"))
			if a := h.chat("alice"); a.status != status || a.header.Get("X-Automation-Session") != id {
				t.Errorf("status %d, body %s on session %s; want %d on %s", a.status, a.body, a.header.Get("X-Automation-Session"), status, id)
			}
			h.node.ClearFaults()
			h.untilIdle()
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d sessions opened, want 1", s.Opens)
		}
	})
	t.Run("another open session is used before a new one is paid", func(t *testing.T) {
		h := newHarness(t, setup{})
		bad := proxyroutertest.ProviderAddress(0)
		h.openIdleSession()
		h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded", Provider: bad})
		for range 4 {
			if a := h.chat("alice"); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
			h.untilIdle()
		}
		if s := h.checkNode(); s.Opens != 2 {
			t.Errorf("%d sessions opened, want 2", s.Opens)
		}
	})
}

// oneProvider is a node whose only model has a single provider.
var oneProvider = proxyroutertest.Options{Models: []proxyroutertest.Model{{ID: proxyroutertest.ModelID("llama"), Name: "llama",
	Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(0)}}}}}

func TestForward_AvoidsAFailingProvider(t *testing.T) {
	t.Parallel()
	bad := proxyroutertest.ProviderAddress(0)
	for name, fault := range map[string]proxyroutertest.Fault{
		"a 500":              {Op: proxyroutertest.OpChat, Status: 500, Text: "provider request failed"},
		"a 503":              {Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"},
		"the provider's 401": proxyroutertest.ProviderModelError(401, "bad key"),
		"a cut connection":   {Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeDrop},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{})
			h.openIdleSession() // the next request opens none, so it may pay for a replacement
			fault.Provider = bad
			h.node.Inject(fault)
			a := h.chat("alice")
			if a.status != http.StatusOK || !strings.Contains(a.body, "You said") {
				t.Fatalf("status %d, body %s; want 200; the log:\n%s", a.status, a.body, h.log)
			}
			s := h.checkNode()
			if s.Opens != 2 || s.Sessions[0].Provider != bad || s.Sessions[1].Provider == bad || s.Sessions[1].ID != a.header.Get("X-Automation-Session") {
				t.Errorf("sessions %+v, want the first with provider %s, and the answer from a second one with another provider", s.Sessions, bad)
			}
			if s.Closes != 0 {
				t.Errorf("%d sessions closed, want none", s.Closes)
			}
			if again := h.chat("alice"); again.header.Get("X-Automation-Session") != a.header.Get("X-Automation-Session") {
				t.Errorf("the next chat used session %s, want the replacement %s", again.header.Get("X-Automation-Session"), a.header.Get("X-Automation-Session"))
			}
		})
	}
}

// A node that closes the connection no longer works on the session. So the session
// can serve the next request at once, and its user does not pay for a second one.
func TestForward_ReusesTheSessionAfterTheNodeClosedTheConnection(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"chat-drop", "chat-cut", "stream-half-line", "node-down"} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{node: oneProvider})
			session := h.openIdleSession()
			h.node.Inject(proxyroutertest.Fault{Name: name})
			for range 2 {
				a := h.do(http.MethodPost, chatPath, "alice", `{"model":"llama","stream":true,"messages":[{"role":"user","content":"Hello"}]}`)
				if !strings.Contains(a.body, `{"error":{`) {
					t.Errorf("during the fault: status %d, body %s; want an error in the body", a.status, a.body)
				}
				h.until("the session has no lease", func() bool {
					return h.count(`SELECT count(*) FROM automation_sessions WHERE lease_until IS NOT NULL`) == 0
				})
			}
			h.node.ClearFaults()
			if a := h.chat("alice"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != session {
				t.Errorf("afterwards: status %d, body %s on session %s; want 200 on %s", a.status, a.body, a.header.Get("X-Automation-Session"), session)
			}
			if s := h.checkNode(); s.Opens != 1 {
				t.Errorf("%d sessions opened, want 1", s.Opens)
			}
		})
	}
}

func TestForward_AnswersWithTheFirstErrorIfNoRemedyHelps(t *testing.T) {
	t.Parallel()
	busy := proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"}
	chat := func(status int, text string) []proxyroutertest.Fault {
		return []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Status: status, Text: text}}
	}
	model := func(status int, text string) []proxyroutertest.Fault {
		return []proxyroutertest.Fault{proxyroutertest.ProviderModelError(status, text)}
	}
	twoProviders := proxyroutertest.Options{}
	for name, tt := range map[string]struct {
		node   proxyroutertest.Options
		faults []proxyroutertest.Fault
		status int
		code   string
		want   string // in the body
		opens  int
		open   int // sessions in service afterwards
	}{
		"a single provider":              {oneProvider, []proxyroutertest.Fault{busy}, 502, "provider_error", "overloaded", 1, 1},
		"a single provider, no answer":   {oneProvider, []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeDrop}}, 502, "provider_error", "did not answer", 1, 1},
		"an error without text":          {oneProvider, []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Status: 503, Body: " "}}, 502, "provider_error", "The Morpheus node answered with an error.", 1, 1},
		"bids that cannot be read":       {twoProviders, []proxyroutertest.Fault{busy, {Op: proxyroutertest.OpBids}}, 502, "provider_error", "overloaded", 1, 1},
		"both providers fail":            {twoProviders, []proxyroutertest.Fault{busy}, 502, "provider_error", "overloaded", 2, 2},
		"no other session can be opened": {twoProviders, []proxyroutertest.Fault{busy, {Op: proxyroutertest.OpOpen, Text: "no provider accepting session"}}, 502, "provider_error", "overloaded", 1, 1},
		"a timeout":                      {oneProvider, chat(500, "read: i/o timeout"), 504, "provider_timeout", "timeout", 1, 1},
		"a failed attestation":           {twoProviders, chat(500, "llm tee verification failed"), 502, "provider_error", "tee", 1, 1},
		"the node's own 400":             {twoProviders, chat(400, "no such tool"), 400, "invalid_body", "no such tool", 1, 1},
		"the node's own 404":             {twoProviders, chat(404, "no route"), 404, "unknown_url", "does not have this route", 1, 1},
		"the node's own 401":             {twoProviders, chat(401, "invalid username or password"), 503, "session_unavailable", "refused the gateway's credentials", 1, 1},
		"the node's own 429":             {twoProviders, chat(429, "slow down"), 429, "model_error", "slow down", 1, 1},
		"the model's own 422":            {twoProviders, model(422, "too long"), 422, "model_error", "too long", 1, 1},
		"the model's own 429":            {twoProviders, model(429, "slow down"), 429, "model_error", "slow down", 1, 1},
		"the model's own 503":            {twoProviders, model(503, "overloaded"), 503, "model_error", "overloaded", 1, 1},
		"the model's own error code":     {twoProviders, []proxyroutertest.Fault{{Name: "model-context-length"}}, 400, "context_length_exceeded", `"param":"messages"`, 1, 1},
		"the same through an old node":   {twoProviders, []proxyroutertest.Fault{{Name: "old-node"}, {Name: "model-context-length"}}, 400, "context_length_exceeded", `"type":"invalid_request_error"`, 1, 1},
		"an old node's rate limit":       {twoProviders, []proxyroutertest.Fault{{Name: "old-node"}, {Name: "model-rate-limit"}}, 429, "rate_limit_exceeded", "Rate limit", 1, 1},
		"the provider's 401":             {oneProvider, model(401, "bad key"), 502, "provider_error", "bad key", 1, 1},
		"the provider's 403":             {oneProvider, model(403, "not you"), 502, "provider_error", "not you", 1, 1},
		"the provider's 404":             {oneProvider, model(404, "no model"), 502, "provider_error", "no model", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{node: tt.node})
			h.openIdleSession()
			for _, f := range tt.faults {
				h.node.Inject(f)
			}
			a := h.chat("alice", "X-Request-Id", "mine")
			if a.status != tt.status || a.code() != tt.code || !strings.Contains(a.body, tt.want) || a.header.Get("X-Request-Id") != "mine" {
				t.Errorf("status %d, body %s; want %d %s with %q; the log:\n%s", a.status, a.body, tt.status, tt.code, tt.want, h.log)
			}
			h.untilIdle()
			if s := h.checkNode(); s.Opens != tt.opens || s.Closes != 0 {
				t.Errorf("%d sessions opened, %d closed; want %d and 0", s.Opens, s.Closes, tt.opens)
			}
			if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != tt.open {
				t.Errorf("%d sessions in service, want %d", n, tt.open)
			}
		})
	}
}

func TestForward_NeverReplacesASessionThatTheClientNamed(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	id := h.chat("alice").header.Get("X-Automation-Session")
	h.untilIdle()
	h.node.Expire(id)
	a := h.chat("alice", "session_id", id)
	if a.status != http.StatusNotFound || a.code() != "session_ended" {
		t.Errorf("status %d, body %s; want 404 session_ended", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
	if h.log.has("switching to another") {
		t.Errorf("the log shows that another session was tried; the log:\n%s", h.log)
	}
}

// If a node or a provider has lost its storage, initiating the session again repairs
// it for free. That also holds for a session that the client named.
func TestForward_RepairsLostStorage(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"lost-storage", "provider-lost-storage", "chat-not-found"} {
		for _, named := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, named: %t", fault, named), func(t *testing.T) {
				h := newHarness(t, setup{})
				id := h.chat("alice").header.Get("X-Automation-Session")
				h.untilIdle()
				h.node.Inject(proxyroutertest.Fault{Name: fault, Times: 1})
				var header []string
				if named {
					header = []string{"session_id", id}
				}
				a := h.chat("alice", header...)
				if a.status != http.StatusOK || a.header.Get("X-Automation-Session") != id {
					t.Errorf("status %d, body %s on session %s; want 200 on %s; the log:\n%s", a.status, a.body, a.header.Get("X-Automation-Session"), id, h.log)
				}
				if s := h.checkNode(); s.Opens != 1 || s.Closes != 0 || s.Initiations != 1 {
					t.Errorf("the node counted %+v, want 1 open, no close and 1 initiation", s)
				}
			})
		}
	}
}

// While a session can be neither repaired nor read from the chain, it is kept.
func TestForward_KeepsASessionWhoseStateCannotBeRead(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	id := h.chat("alice").header.Get("X-Automation-Session")
	h.untilIdle()
	h.node.Inject(proxyroutertest.Fault{Name: "lost-storage"})
	h.node.Inject(proxyroutertest.Fault{Name: "get-rpc-error"})
	if a := h.chat("alice"); a.status != http.StatusServiceUnavailable || a.code() != "session_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, body %s; want 503 session_unavailable with Retry-After", a.status, a.body)
	}
	h.node.ClearFaults()
	if a := h.chat("alice"); a.header.Get("X-Automation-Session") != id {
		t.Errorf("status %d, body %s; want an answer on session %s", a.status, a.body, id)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}

func TestForward_PassesThroughRequestsOnSessionsItDoesNotManage(t *testing.T) {
	t.Parallel()
	for name, flag := range map[string]string{"with automation": enableForAll, "without": `UPDATE feature_flags SET enabled = false`} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{flagSQL: flag})
			id := h.openAtNode()
			a := h.chat("alice", "session_id", id)
			if a.status != http.StatusOK || a.header.Get("X-Automation-Session") != "" {
				t.Errorf("status %d, body %s, header %v; want 200 without X-Automation-Session", a.status, a.body, a.header)
			}
			if n := h.count(`SELECT count(*) FROM automation_sessions`); n != 0 {
				t.Errorf("%d sessions in the database, want none", n)
			}
		})
	}
}

// closeAtNode closes a session directly at the node.
func (h *harness) closeAtNode(id string) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", h.node.URL+"/blockchain/sessions/"+id+"/close", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := h.server.Client().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("closing a session at the node: %s", resp.Status)
	}
}

// openAtNode opens a session directly at the node.
func (h *harness) openAtNode() string {
	h.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "POST", h.node.URL+"/blockchain/models/"+proxyroutertest.ModelID("llama")+"/session",
		strings.NewReader(`{"sessionDuration":3600,"directPayment":false,"failover":false}`))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := h.server.Client().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var v struct{ SessionID string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || v.SessionID == "" {
		h.t.Fatalf("opening a session at the node: %s, error %v", resp.Status, err)
	}
	return v.SessionID
}

// Nothing behind Forward checks whose session it is, so Forward refuses even users
// who do not have the feature.
func TestForward_RefusesOthersSessionsToUsersWithoutTheFeature(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{flagSQL: `UPDATE feature_flags SET enabled_user_ids = '["alice"]'`})
	id := h.chat("alice").header.Get("X-Automation-Session")
	for _, key := range []string{"bob", "ro-bob"} {
		if a := h.chat(key, "session_id", id); a.status != http.StatusNotFound || a.code() != "session_not_found" {
			t.Errorf("%s: status %d, body %s; want 404 session_not_found", key, a.status, a.body)
		}
	}
	if a := h.chat("bob"); a.status != http.StatusBadRequest || a.code() != "session_required" {
		t.Errorf("bob without a session: status %d, body %s; want 400 session_required", a.status, a.body)
	}
	h.execAndRefresh(`UPDATE feature_flags SET enabled = false`)
	if a := h.chat("bob", "session_id", id); a.status != http.StatusNotFound {
		t.Errorf("with the flag off: status %d, body %s; want 404", a.status, a.body)
	}
	if a := h.chat("alice", "session_id", id); a.status != http.StatusOK {
		t.Errorf("the session's own user: status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.node.Stats(); s.Chats != 2 {
		t.Errorf("%d chats reached the node, want alice's 2", s.Chats)
	}
}

func TestForward_RefusesUnknownUsersAndRoutes(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	for _, tt := range []struct {
		method, path, key, body string
		status                  int
		code, header            string
	}{
		{"POST", chatPath, "", chatBody("llama"), 401, "invalid_api_key", "WWW-Authenticate"},
		{"POST", chatPath, "away", chatBody("llama"), 503, "session_unavailable", "Retry-After"},
		{"GET", chatPath, "alice", "", 405, "method_not_allowed", "Allow"},
		{"POST", "/api/v1/files", "alice", chatBody("llama"), 404, "unknown_url", "X-Request-Id"},
	} {
		a := h.do(tt.method, tt.path, tt.key, tt.body)
		if a.status != tt.status || a.code() != tt.code || a.header.Get(tt.header) == "" {
			t.Errorf("%s %s with key %q: status %d, body %s, header %v; want %d %s with %s", tt.method, tt.path, tt.key, a.status, a.body, a.header, tt.status, tt.code, tt.header)
		}
	}
	if n := h.node.Stats().OpenRequests; n != 0 {
		t.Errorf("%d sessions opened, want none", n)
	}
}

func TestForward_HidesTheClientsCredentialsFromTheNode(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got http.Header
	var body []byte
	h := newHarness(t, setup{node: proxyroutertest.Options{Username: "admin", Password: "secret", OnChat: func(r *http.Request, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		got, body = r.Header.Clone(), bytes.Clone(b)
	}}})
	sent := "  " + chatBody("llama") + "\n"
	a := h.do("POST", chatPath, "alice", sent, "Cookie", "canary=1", "X-Api-Key", "canary", "chat_id", "c1", "X-Request-Id", "r1", "Accept", "application/json")
	if a.status != http.StatusOK || a.header.Get("X-Request-Id") != "r1" {
		t.Fatalf("status %d, body %s, header %v; want 200", a.status, a.body, a.header)
	}
	mu.Lock()
	defer mu.Unlock()
	if string(body) != sent {
		t.Errorf("the node got the body %q, want %q", body, sent)
	}
	got.Del("Content-Length")
	got.Del("Accept-Encoding")
	want := http.Header{"Authorization": {"Basic YWRtaW46c2VjcmV0"}, "Content-Type": {"application/json"}, "Accept": {"application/json"}, "X-Request-Id": {"r1"},
		"Session_id": {a.header.Get("X-Automation-Session")}, "Model_id": {proxyroutertest.ModelID("llama")}, "Chat_id": got["Chat_id"], "User-Agent": {"gateway-automation"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the header that the node got (-want +got):\n%s", diff)
	}
	if len(got.Get("chat_id")) != 66 {
		t.Errorf("chat_id %v at the node, want a hash of 66 characters that depends on the user", got["Chat_id"])
	}
}

func TestForward_RetriesNothingAfterTheFirstByte(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, media, part, want string }{
		{"a stream ends with an error", "text/event-stream", "data: {\"choices\":[]}\n\n",
			"data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"The provider's answer broke off.\",\"type\":\"upstream_error\",\"code\":\"stream_interrupted\"}}\n\n"},
		{"any other answer is cut", "audio/mpeg", "ID3", "ID3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulated := proxyroutertest.NewServer(t, proxyroutertest.Options{})
			var chats atomic.Int32
			h := newHarness(t, setup{config: answerForwarded(t, simulated, func(w http.ResponseWriter, _ *http.Request) {
				chats.Add(1)
				w.Header().Set("Content-Type", tt.media)
				_, _ = io.WriteString(w, tt.part)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})})
			resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", chatBody("llama")))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if string(body) != tt.want || (err == nil) != (tt.media == "text/event-stream") {
				t.Errorf("body %q, error %v; want %q, and an error unless it is a stream", body, err, tt.want)
			}
			if chats.Load() != 1 || simulated.Stats().Opens != 1 {
				t.Errorf("%d chats, %d sessions opened; want 1 and 1", chats.Load(), simulated.Stats().Opens)
			}
			h.untilIdle()
			if !h.log.has("request ended", "stream_interrupted") {
				t.Errorf("the log has no request that ended with stream_interrupted; the log:\n%s", h.log)
			}
		})
	}
}

// The answer is drained after the client has left, so the session is free without a
// cool-down.
func TestForward_FreesTheSessionAfterTheClientLeft(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{ChunkDelay: 20 * time.Millisecond}})
	for range 3 {
		ctx, leave := context.WithCancel(t.Context())
		resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", streamBody("llama", strings.Repeat("word ", 20))).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: ") {
			t.Fatalf("first line %q, error %v; want an event", line, err)
		}
		leave()
		_ = resp.Body.Close()
		h.untilIdle()
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}

// deadlineContext is a context whose deadline passes when over is closed.
type deadlineContext struct {
	context.Context //nolint:containedctx // this type is a context

	over <-chan struct{}
}

func (c deadlineContext) Done() <-chan struct{} { return c.over }

func (c deadlineContext) Err() error {
	select {
	case <-c.over:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestForward_AnswersWhenTheHostsDeadlinePasses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault, body, want string
		afterBegin        bool // the deadline passes after the answer has begun
	}{
		{"provider-hangs", chatBody("llama"), `"code":"session_unavailable"`, false},
		{"stream-silent", streamBody("llama", "Hello"), `data: {"error":{"message":"The gateway ended the answer`, true},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			h := newHarness(t, setup{})
			if a := h.chat("alice"); a.status != http.StatusOK { // opens the session
				t.Fatalf("status %d, body %s; want 200", a.status, a.body)
			}
			forward := h.Forward()
			deadline := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				forward.ServeHTTP(w, r.WithContext(deadlineContext{r.Context(), deadline}))
			}))
			defer server.Close()
			passDeadline := sync.OnceFunc(func() { close(deadline) })
			defer passDeadline()
			chats := h.node.Stats().Chats
			h.node.Inject(proxyroutertest.Fault{Name: tt.fault})
			request := h.request("POST", chatPath, "alice", tt.body)
			request.URL.Host = strings.TrimPrefix(server.URL, "http://")
			answers := make(chan *http.Response, 1)
			go func() {
				defer close(answers)
				resp, err := server.Client().Do(request) //nolint:bodyclose // closed below
				if err != nil {
					t.Error(err)
					return
				}
				answers <- resp
			}()
			if !tt.afterBegin {
				h.until("the node has the request", func() bool { return h.node.Stats().Chats > chats })
				passDeadline()
			}
			resp := <-answers
			if resp == nil {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			passDeadline()
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(body), tt.want) {
				t.Errorf("status %d, body %s, error %v; want %s in the body", resp.StatusCode, body, err, tt.want)
			}
			if !h.log.has("request ended", "cause\":\"host") {
				t.Errorf("the log has no request whose cause is the host; the log:\n%s", h.log)
			}
			h.node.ClearFaults()
		})
	}
}

func TestForward_RelaysEachEventAsItIsSent(t *testing.T) {
	t.Parallel()
	read := make(chan struct{}, 1)
	simulated := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	h := newHarness(t, setup{config: answerForwarded(t, simulated, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			_, _ = fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":\"%d\"}}]}\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-read: // the client has read the event before the next one is sent
			case <-r.Context().Done():
				return
			}
		}
		_, _ = io.WriteString(w, "data: [DONE]\n\n")
	})})
	resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", llamaStreamBody))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	for i := range 5 {
		line, err := lines.ReadString('\n')
		if err != nil || !strings.Contains(line, fmt.Sprintf("%q", fmt.Sprint(i))) {
			t.Fatalf("event %d is %q, error %v", i, line, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		read <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "data: [DONE]\n\n" {
		t.Errorf("the end of the stream is %q, error %v; want data: [DONE]", rest, err)
	}
}

func TestForward_HoldsNoSessionDuringASlowUpload(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	r, w := io.Pipe()
	req := h.request("POST", chatPath, "alice", "x")
	req.Body, req.ContentLength = r, -1
	done := make(chan answer, 1)
	go func() { done <- h.send(req) }()
	if _, err := io.WriteString(w, `{"model":"llama","messages":[`); err != nil {
		t.Fatal(err)
	}
	if a := h.chat("alice"); a.status != http.StatusOK { // during the upload
		t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.node.Stats(); s.Opens != 1 {
		t.Errorf("%d sessions opened during the upload, want 1", s.Opens)
	}
	_, _ = io.WriteString(w, `{"role":"user","content":"late"}]}`)
	_ = w.Close()
	if a := <-done; a.status != http.StatusOK || !strings.Contains(a.body, "late") {
		t.Errorf("the slow upload: status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d sessions opened, want 1", s.Opens)
	}
}
