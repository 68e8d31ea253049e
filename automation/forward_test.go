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

func streamBody(model, said string) string {
	text, _ := json.Marshal(map[string]any{"model": model, "stream": true, "messages": []any{map[string]any{"role": "user", "content": said}}})
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
			t.Errorf("%s: %d %.300s %v", tt.path, a.status, a.body, a.header)
		}
		if a.header.Get("X-Automation-Session") == "" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %v", tt.path, a.header)
		}
	}
	h.checkNode()
}

// The network's node lacks some of OpenAI's routes. Only the first request to
// each pays for a session; its answer shows that the route is missing.
func TestForward_PaysForNoRouteThatTheNodeLacks(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64 // of the wall clock, in nanoseconds
	h := newHarness(t, setup{withFeed: true, options: func(o *automation.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
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
		t.Errorf("%d sessions were paid, want one to see each route missing", s.Opens)
	}
	// A newer node has them.
	ahead.Store(int64(time.Hour))
	h.do("POST", "/api/v1/completions", "late", routes[0].body)
	if s := h.checkNode(); s.Opens != len(routes)+1 {
		t.Errorf("an hour later the node was not asked again: %d opens", s.Opens)
	}
}

// The chat route is never remembered as missing: one 404 would refuse everybody.
func TestForward_TriesTheChatRouteAgainAfterA404(t *testing.T) {
	t.Parallel()
	chain := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	var failed atomic.Bool
	h := newHarness(t, setup{config: answerForwarded(t, chain, func(w http.ResponseWriter, _ *http.Request) {
		if !failed.Swap(true) {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"choices":[]}`)
	})})
	for _, want := range []int{http.StatusNotFound, http.StatusOK} {
		if a := h.chat("alice"); a.status != want {
			t.Errorf("status %d, body %s, want %d", a.status, a.body, want)
		}
	}
}

// answerForwarded answers forwarded requests with answer, and passes all others
// on to the simulated node.
func answerForwarded(t *testing.T, chain *proxyroutertest.Server, answer http.HandlerFunc) func(*automation.Config) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			chain.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return func(c *automation.Config) { c.ProxyRouterURL = s.URL }
}

func TestForward_ReusesTheSessionHoweverSoon(t *testing.T) {
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
			chain := proxyroutertest.NewServer(t, proxyroutertest.Options{})
			h := newHarness(t, setup{config: answerForwarded(t, chain, answer)})
			served := 0
			send := func() (ok bool) {
				// A client that reads no further than it must: to the Content-Length, or to [DONE].
				resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", chatBody("llama")))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = resp.Body.Close() }()
				if resp.StatusCode == http.StatusServiceUnavailable { // a loaded machine's database is slower than a statement's time-out
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
					t.Fatal(resp.Status, err)
				}
				served++
				return true
			}
			h.until("30 requests are served", func() bool {
				for served < 30 && send() {
				}
				return served == 30
			})
			if s := chain.Stats(); s.Opens != 1 {
				t.Errorf("%d opens, want 1; the log:\n%s", s.Opens, h.log)
			}
		})
	}
}

// warm opens a session for alice, waits until it is idle, and returns its id.
func (h *harness) openIdleSession() string {
	h.t.Helper()
	a := h.chat("alice")
	if a.status != http.StatusOK {
		h.t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	h.untilIdle()
	return a.header.Get("X-Automation-Session")
}

func TestSession_ThatEndedOnTheChainIsReplacedOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	first := h.openIdleSession()
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Times: 1, Text: "provider request failed: provider error: session expired"})
	h.closeAtNode(first)
	a := h.chat("alice")
	second := a.header.Get("X-Automation-Session")
	if a.status != http.StatusOK || second == first || !strings.Contains(a.body, "You said") {
		t.Fatalf("status %d, body %s on %s; want 200", a.status, a.body, second)
	}
	h.untilIdle()
	if a := h.chat("alice"); a.header.Get("X-Automation-Session") != second {
		t.Error("the ended one was handed out again")
	}
	if s := h.node.Stats(); s.Opens != 2 {
		t.Errorf("%d opens, want 2", s.Opens)
	}
	if !h.log.has("session ended on the chain", "closed") {
		t.Error("the log does not say why")
	}
}

func TestSession_ThatTheProviderDeniesIsInitiatedBeforeItIsReplaced(t *testing.T) {
	t.Parallel()
	denied := proxyroutertest.Fault{Op: proxyroutertest.OpChat, Text: "provider request failed: provider error: session expired"}
	t.Run("initiating it helps", func(t *testing.T) {
		h := newHarness(t, setup{node: oneProvider})
		id := h.openIdleSession()
		denied := denied
		denied.Times = 1
		h.node.Inject(denied)
		if a := h.chat("alice"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != id {
			t.Errorf("status %d, body %s on %s; want 200", a.status, a.body, a.header.Get("X-Automation-Session"))
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d opens, want 1: it is open on the chain", s.Opens)
		}
	})
	t.Run("it does not help", func(t *testing.T) {
		h := newHarness(t, setup{node: oneProvider})
		id := h.openIdleSession()
		h.node.Expire(id)
		a := h.chat("alice")
		if a.status != http.StatusOK || a.header.Get("X-Automation-Session") == id {
			t.Errorf("status %d, body %s; want 200", a.status, a.body)
		}
		h.untilIdle()
		if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != 2 {
			t.Errorf("%d in service, want 2: nothing shows the first one broken", n)
		}
		// The replacement is there: nothing more is paid.
		for range 3 {
			if a := h.chat("alice"); a.status != http.StatusOK {
				t.Errorf("status %d, body %s; want 200", a.status, a.body)
			}
		}
		if s := h.checkNode(); s.Opens != 2 {
			t.Errorf("%d opens, want 2", s.Opens)
		}
	})
}

func TestSession_IsNotReplacedWhileTheChainCannotBeAsked(t *testing.T) {
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
		t.Errorf("the session was given up: status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d opens", s.Opens)
	}
}

// A request pays for at most one session, and replacing broken sessions has a
// budget of its own.
func TestMoney_FailuresPayForNoMoreThanTheirBudget(t *testing.T) {
	t.Parallel()
	t.Run("a first request that fails pays once", func(t *testing.T) {
		h := newHarness(t, setup{})
		h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"})
		if a := h.chat("alice"); a.status != http.StatusBadGateway {
			t.Errorf("status %d, body %s; want 502", a.status, a.body)
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d opens, want 1", s.Opens)
		}
	})
	t.Run("many requests that fail pay for the budget's replacements", func(t *testing.T) {
		h := newHarness(t, setup{config: func(c *automation.Config) { c.MaxReplacementsPerHour, c.MaxOpensPerHour = 2, 10 }})
		h.openIdleSession()
		h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"})
		for range 12 {
			if a := h.chat("alice"); a.status != http.StatusBadGateway {
				t.Errorf("status %d, body %s; want 502", a.status, a.body)
			}
		}
		if s := h.checkNode(); s.Opens > 3 {
			t.Errorf("%d opens, want at most 3", s.Opens)
		}
		if b := h.get(statusPath, "alice").json(t)["budget"].(object); b["opens_left_hour"] != 9.0 {
			t.Errorf("replacements are charged to the user: %v", b)
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
				t.Errorf("status %d, body %s", a.status, a.body)
			}
			h.node.ClearFaults()
			h.untilIdle()
		}
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d opens, want 1", s.Opens)
		}
	})
	t.Run("another open session comes before a paid one", func(t *testing.T) {
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
			t.Errorf("%d opens, want 2", s.Opens)
		}
	})
}

// oneProvider is a node whose only model has a single provider.
var oneProvider = proxyroutertest.Options{Models: []proxyroutertest.Model{{ID: proxyroutertest.ModelID("llama"), Name: "llama",
	Providers: []proxyroutertest.Provider{{Address: proxyroutertest.ProviderAddress(0)}}}}}

func TestForward_LeavesAFailingProvider(t *testing.T) {
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
			h.openIdleSession() // a request that has caused an open causes no second one
			fault.Provider = bad
			h.node.Inject(fault)
			a := h.chat("alice")
			if a.status != http.StatusOK || !strings.Contains(a.body, "You said") {
				t.Fatalf("status %d, body %s; want 200; the log:\n%s", a.status, a.body, h.log)
			}
			s := h.checkNode()
			if s.Opens != 2 || s.Sessions[0].Provider != bad || s.Sessions[1].Provider == bad || s.Sessions[1].ID != a.header.Get("X-Automation-Session") {
				t.Errorf("sessions %+v", s.Sessions)
			}
			if s.Closes != 0 {
				t.Errorf("%d closes", s.Closes)
			}
			if again := h.chat("alice"); again.header.Get("X-Automation-Session") != a.header.Get("X-Automation-Session") {
				t.Error("the broken one was handed out again")
			}
		})
	}
}

// A node that closes the connection is done with the session, so the session
// serves the next request at once, and its user pays for no second one.
func TestForward_PaysForNoSessionBecauseTheNodeClosedAConnection(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"chat-drop", "chat-cut", "stream-half-line", "node-down"} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{node: oneProvider})
			session := h.openIdleSession()
			h.node.Inject(proxyroutertest.Fault{Name: name})
			for range 2 {
				a := h.do(http.MethodPost, chatPath, "alice", `{"model":"llama","stream":true,"messages":[{"role":"user","content":"Hello"}]}`)
				if !strings.Contains(a.body, `{"error":{`) {
					t.Errorf("while it breaks off: status %d, body %s", a.status, a.body)
				}
				h.until("the session is free", func() bool {
					return h.count(`SELECT count(*) FROM automation_sessions WHERE lease_until IS NOT NULL`) == 0
				})
			}
			h.node.ClearFaults()
			if a := h.chat("alice"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != session {
				t.Errorf("afterwards: status %d, body %s on %s, want %s", a.status, a.body, a.header.Get("X-Automation-Session"), session)
			}
			if s := h.checkNode(); s.Opens != 1 {
				t.Errorf("%d opens", s.Opens)
			}
		})
	}
}

func TestForward_AnswersWithTheFirstErrorWhereNoRemedyHelps(t *testing.T) {
	t.Parallel()
	busy := proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: 503, Text: "overloaded"}
	chat := func(status int, text string) []proxyroutertest.Fault {
		return []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Status: status, Text: text}}
	}
	model := func(status int, text string) []proxyroutertest.Fault {
		return []proxyroutertest.Fault{proxyroutertest.ProviderModelError(status, text)}
	}
	any := proxyroutertest.Options{}
	for name, tt := range map[string]struct {
		node   proxyroutertest.Options
		faults []proxyroutertest.Fault
		status int
		code   string
		want   string
		opens  int
		open   int // sessions in service afterwards
	}{
		"a single bid":               {oneProvider, []proxyroutertest.Fault{busy}, 502, "provider_error", "overloaded", 1, 1},
		"a single bid, no answer":    {oneProvider, []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Mode: proxyroutertest.ModeDrop}}, 502, "provider_error", "no answer", 1, 1},
		"no text":                    {oneProvider, []proxyroutertest.Fault{{Op: proxyroutertest.OpChat, Status: 503, Body: " "}}, 502, "provider_error", "The Morpheus node answered with an error.", 1, 1},
		"bids that cannot be read":   {any, []proxyroutertest.Fault{busy, {Op: proxyroutertest.OpBids}}, 502, "provider_error", "overloaded", 1, 1},
		"both providers fail":        {any, []proxyroutertest.Fault{busy}, 502, "provider_error", "overloaded", 2, 2},
		"no other session to be had": {any, []proxyroutertest.Fault{busy, {Op: proxyroutertest.OpOpen, Text: "no provider accepting session"}}, 502, "provider_error", "overloaded", 1, 1},
		"a timeout":                  {oneProvider, chat(500, "read: i/o timeout"), 504, "provider_timeout", "timeout", 1, 1},
		"a failed attestation":       {any, chat(500, "llm tee verification failed"), 502, "provider_error", "tee", 1, 1},
		"a 400 of the node":          {any, chat(400, "no such tool"), 400, "invalid_body", "no such tool", 1, 1},
		"a 404 of the node":          {any, chat(404, "no route"), 404, "unknown_url", "does not have this route", 1, 1},
		"the node's own 401":         {any, chat(401, "invalid username or password"), 503, "session_unavailable", "refused the gateway's credentials", 1, 1},
		"a 429 of the node":          {any, chat(429, "slow down"), 429, "model_error", "slow down", 1, 1},
		"the model's own 422":        {any, model(422, "too long"), 422, "model_error", "too long", 1, 1},
		"the model's own 429":        {any, model(429, "slow down"), 429, "model_error", "slow down", 1, 1},
		"the model's own 503":        {any, model(503, "overloaded"), 503, "model_error", "overloaded", 1, 1},
		"the model's own code":       {any, []proxyroutertest.Fault{{Name: "model-context-length"}}, 400, "context_length_exceeded", `"param":"messages"`, 1, 1},
		"the same of an old node":    {any, []proxyroutertest.Fault{{Name: "old-node"}, {Name: "model-context-length"}}, 400, "context_length_exceeded", `"type":"invalid_request_error"`, 1, 1},
		"an old node's rate limit":   {any, []proxyroutertest.Fault{{Name: "old-node"}, {Name: "model-rate-limit"}}, 429, "rate_limit_exceeded", "Rate limit", 1, 1},
		"the provider's 401":         {oneProvider, model(401, "bad key"), 502, "provider_error", "bad key", 1, 1},
		"the provider's 403":         {oneProvider, model(403, "not you"), 502, "provider_error", "not you", 1, 1},
		"the provider's 404":         {oneProvider, model(404, "no model"), 502, "provider_error", "no model", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{node: tt.node})
			h.openIdleSession()
			for _, f := range tt.faults {
				h.node.Inject(f)
			}
			a := h.chat("alice", "X-Request-Id", "mine")
			if a.status != tt.status || a.code() != tt.code || !strings.Contains(a.body, tt.want) || a.header.Get("X-Request-Id") != "mine" {
				t.Errorf("status %d, body %s, want %d; the log:\n%s", a.status, a.body, tt.status, h.log)
			}
			h.untilIdle()
			if s := h.checkNode(); s.Opens != tt.opens || s.Closes != 0 {
				t.Errorf("%d opens, %d closes; want %d, 0", s.Opens, s.Closes, tt.opens)
			}
			if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != tt.open {
				t.Errorf("%d in service, want %d", n, tt.open)
			}
		})
	}
}

func TestForward_ReplacesNoNamedSession(t *testing.T) {
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
		t.Errorf("%d opens", s.Opens)
	}
	if h.log.has("taking another") {
		t.Error("it was about to take another")
	}
}

// Where a node or a provider has lost its storage, initiating the session again
// repairs it for free, also a session that the client named.
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
					t.Errorf("status %d, body %s on %s; want 200; the log:\n%s", a.status, a.body, a.header.Get("X-Automation-Session"), h.log)
				}
				if s := h.checkNode(); s.Opens != 1 || s.Closes != 0 || s.Initiations != 1 {
					t.Errorf("stats = %+v", s)
				}
			})
		}
	}
}

// A session that cannot be repaired at the moment is kept.
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
		t.Errorf("status %d, body %s", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d opens", s.Opens)
	}
}

// A request on a session that the module does not manage is passed through.
func TestForward_PassesSessionsThroughThatItDoesNotManage(t *testing.T) {
	t.Parallel()
	for name, flag := range map[string]string{"with automation": enableForAll, "without": `UPDATE feature_flags SET enabled = false`} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{flagSQL: flag})
			id := h.openAtNode()
			a := h.chat("alice", "session_id", id)
			if a.status != http.StatusOK || a.header.Get("X-Automation-Session") != "" {
				t.Errorf("status %d, body %s, header %v; want 200", a.status, a.body, a.header)
			}
			if n := h.count(`SELECT count(*) FROM automation_sessions`); n != 0 {
				t.Errorf("%d rows", n)
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
		h.t.Fatal(resp.Status)
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
		h.t.Fatal(resp.Status, err)
	}
	return v.SessionID
}

// The forwarding handler is the last one that can check whose session it is.
func TestForward_GuardsSessionsFromUsersWithoutTheFeature(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{flagSQL: `UPDATE feature_flags SET enabled_user_ids = '["alice"]'`})
	id := h.chat("alice").header.Get("X-Automation-Session")
	for _, key := range []string{"bob", "ro-bob"} {
		if a := h.chat(key, "session_id", id); a.status != http.StatusNotFound || a.code() != "session_not_found" {
			t.Errorf("%s: status %d, body %s; want 404 session_not_found", key, a.status, a.body)
		}
	}
	if a := h.chat("bob"); a.status != http.StatusBadRequest || a.code() != "session_required" {
		t.Errorf("status %d, body %s; want 400 session_required", a.status, a.body)
	}
	h.execAndRefresh(`UPDATE feature_flags SET enabled = false`)
	if a := h.chat("bob", "session_id", id); a.status != http.StatusNotFound {
		t.Errorf("with the flag off: status %d, body %s; want 404", a.status, a.body)
	}
	if a := h.chat("alice", "session_id", id); a.status != http.StatusOK {
		t.Errorf("its own user: status %d, body %s; want 200", a.status, a.body)
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
			t.Errorf("%s %s for %q: status %d, body %s, header %v", tt.method, tt.path, tt.key, a.status, a.body, a.header)
		}
	}
	if n := h.node.Stats().OpenRequests; n != 0 {
		t.Errorf("%d opens", n)
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
		t.Errorf("the node got %q", body)
	}
	got.Del("Content-Length")
	got.Del("Accept-Encoding")
	want := http.Header{"Authorization": {"Basic YWRtaW46c2VjcmV0"}, "Content-Type": {"application/json"}, "Accept": {"application/json"}, "X-Request-Id": {"r1"},
		"Session_id": {a.header.Get("X-Automation-Session")}, "Model_id": {proxyroutertest.ModelID("llama")}, "Chat_id": got["Chat_id"], "User-Agent": {"gateway-automation"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(got.Get("chat_id")) != 66 {
		t.Errorf("the chat id is not scoped: %v", got["Chat_id"])
	}
}

func TestForward_SendsNothingAgainAfterTheFirstByte(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, media, part, want string }{
		{"a stream ends with an error", "text/event-stream", "data: {\"choices\":[]}\n\n",
			"data: {\"choices\":[]}\n\ndata: {\"error\":{\"message\":\"The provider's answer broke off.\",\"type\":\"upstream_error\",\"code\":\"stream_interrupted\"}}\n\n"},
		{"anything else is cut", "audio/mpeg", "ID3", "ID3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain := proxyroutertest.NewServer(t, proxyroutertest.Options{})
			var chats atomic.Int32
			h := newHarness(t, setup{config: answerForwarded(t, chain, func(w http.ResponseWriter, _ *http.Request) {
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
				t.Errorf("%q, %v", body, err)
			}
			if chats.Load() != 1 || chain.Stats().Opens != 1 {
				t.Errorf("%d chats, %d opens", chats.Load(), chain.Stats().Opens)
			}
			h.untilIdle()
			if !h.log.has("request ended", "stream_interrupted") {
				t.Error("not in the log")
			}
		})
	}
}

// A session is free only when the node is done with it.
func TestForward_FreesTheSessionOfAClientThatLeft(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{ChunkDelay: 20 * time.Millisecond}})
	for i := range 3 {
		ctx, leave := context.WithCancel(t.Context())
		resp, err := h.server.Client().Do(h.request("POST", chatPath, "alice", streamBody("llama", strings.Repeat("word ", 20))).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || !strings.HasPrefix(line, "data: ") {
			t.Fatalf("%q, %v", line, err)
		}
		leave()
		_ = resp.Body.Close()
		h.until(fmt.Sprint("the session is free again, round ", i), func() bool { return h.heldSessions() == 0 })
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d opens", s.Opens)
	}
}

// deadlineContext is a context whose deadline passes when over is closed.
type deadlineContext struct {
	context.Context //nolint:containedctx // it wraps one

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

func TestForward_AnswersWhenTheHostsDeadlineComesFirst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fault, body, want string
		begun             bool // the deadline passes after the answer has begun
	}{
		{"provider-hangs", chatBody("llama"), `"code":"session_unavailable"`, false},
		{"stream-silent", streamBody("llama", "Hello"), `data: {"error":{"message":"The gateway ended the answer`, true},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			h := newHarness(t, setup{})
			if a := h.chat("alice"); a.status != http.StatusOK { // the session is there
				t.Fatal(a.body)
			}
			forward := h.Forward()
			deadline := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				forward.ServeHTTP(w, r.WithContext(deadlineContext{r.Context(), deadline}))
			}))
			defer server.Close()
			over := sync.OnceFunc(func() { close(deadline) })
			defer over()
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
			if !tt.begun {
				h.until("the node has the request", func() bool { return h.node.Stats().Chats > chats })
				over()
			}
			resp := <-answers
			if resp == nil {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			over()
			body, err := io.ReadAll(resp.Body)
			if err != nil || !strings.Contains(string(body), tt.want) {
				t.Errorf("%d %s, %v", resp.StatusCode, body, err)
			}
			if !h.log.has("request ended", "cause\":\"host") {
				t.Error("the host's deadline is not in the log")
			}
			h.node.ClearFaults()
		})
	}
}

func TestForward_PassesOnEachEventAsItIsSent(t *testing.T) {
	t.Parallel()
	read := make(chan struct{}, 1)
	chain := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	h := newHarness(t, setup{config: answerForwarded(t, chain, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			_, _ = fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":\"%d\"}}]}\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-read: // the client has it before there is more
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
			t.Fatalf("event %d is %q, %v", i, line, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		read <- struct{}{}
	}
	if rest, err := io.ReadAll(lines); err != nil || string(rest) != "data: [DONE]\n\n" {
		t.Errorf("the end is %q, %v", rest, err)
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
	if a := h.chat("alice"); a.status != http.StatusOK { // meanwhile
		t.Fatal(a.body)
	}
	if s := h.node.Stats(); s.Opens != 1 {
		t.Errorf("%d opens", s.Opens)
	}
	_, _ = io.WriteString(w, `{"role":"user","content":"late"}]}`)
	_ = w.Close()
	if a := <-done; a.status != http.StatusOK || !strings.Contains(a.body, "late") {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	if s := h.checkNode(); s.Opens != 1 {
		t.Errorf("%d opens", s.Opens)
	}
}
