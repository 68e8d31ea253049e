package automation_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// postgresDB opens a migrated database of the PostgreSQL cluster that the tests share.
func postgresDB(t testing.TB) *sqlx.DB {
	t.Helper()
	return pgtest.Open(t, schematest.Database(t))
}

var databases = map[string]func(testing.TB) *sqlx.DB{"sqlite": sqliteDB, "postgres": postgresDB}

func TestForward_NeverOverlapsOnASession(t *testing.T) {
	t.Parallel()
	for name, db := range databases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{db: db, node: proxyroutertest.Options{OpenLatency: 50 * time.Millisecond, ChunkDelay: 5 * time.Millisecond},
				config: func(c *automation.Config) { c.MaxSessionsPerUser, c.MaxOpensPerHour = 4, 10 }})
			var served, refused atomic.Int32
			var wg sync.WaitGroup
			for range 64 {
				wg.Go(func() {
					switch a := h.chat("alice"); {
					case a.status == http.StatusOK:
						served.Add(1)
					case (a.status == 429 || a.status == 503) && a.header.Get("Retry-After") != "":
						refused.Add(1)
					default:
						t.Errorf("status %d, body %s; want 200, or 429 or 503 with Retry-After", a.status, a.body)
					}
				})
			}
			wg.Wait()
			s := h.checkNode()
			if served.Load()+refused.Load() != 64 || served.Load() == 0 || s.Opens > 4 {
				t.Errorf("%d requests served, %d refused with Retry-After, %d sessions opened; want 64 requests in all, some of them served, and at most 4 sessions", served.Load(), refused.Load(), s.Opens)
			}
			h.untilIdle()
			t.Logf("%d requests served, %d refused with Retry-After, %d sessions opened", served.Load(), refused.Load(), s.Opens)
		})
	}
}

// checkUnavailable asserts a 503 with the code session_unavailable and a Retry-After.
func checkUnavailable(t *testing.T, a answer) {
	t.Helper()
	retry, err := strconv.Atoi(a.header.Get("Retry-After"))
	if a.status != http.StatusServiceUnavailable || a.code() != "session_unavailable" || err != nil || retry < 1 {
		t.Errorf("status %d, body %s, Retry-After %q; want 503 session_unavailable with Retry-After", a.status, a.body, a.header.Get("Retry-After"))
	}
}

// checkUnavailableSoon is checkUnavailable for an answer that must come before the
// time-outs of the node and of the database.
func checkUnavailableSoon(t *testing.T, a answer, took time.Duration) {
	t.Helper()
	checkUnavailable(t, a)
	if took > time.Minute { // milliseconds, except on a loaded machine
		t.Errorf("the answer took %v, want it without a time-out", took)
	}
}

func TestForward_AnswersAtOnceWhenTheNodeIsUnreachable(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if a := h.chat("alice"); a.status != http.StatusOK {
		t.Fatalf("status %d, body %s; want 200", a.status, a.body)
	}
	h.node.Close()
	for _, tt := range []struct{ path, user string }{
		{hostPath, "bob"},                                       // bob has no session, through Sessions
		{chatPath, "bob"},                                       // the same through Forward
		{chatPath, "alice"},                                     // alice has a session
		{hostPath, "bob"}, {hostPath, "bob"}, {hostPath, "bob"}, // until the breaker opens
	} {
		start := time.Now()
		a := h.do("POST", tt.path, tt.user, chatBody("llama"))
		took := time.Since(start)
		checkUnavailableSoon(t, a, took)
		t.Logf("%s for %s: %d after %v", tt.path, tt.user, a.status, took)
	}
	h.until("Ready reports that the node does not answer", func() bool { // each request makes the breaker call the node again
		h.do("POST", hostPath, "bob", chatBody("llama"))
		a := h.get("/healthz/ready", "")
		return a.status == http.StatusServiceUnavailable && strings.Contains(a.body, "it does not answer")
	})
	// Alice's session is kept.
	if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open'`); n != 1 {
		t.Errorf("%d open sessions, want alice's", n)
	}
}

func TestForward_ReportsWrongNodeCredentials(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{Username: "admin", Password: "canary-right"},
		config: func(c *automation.Config) { c.ProxyRouterPassword = automation.NewSecret("canary-wrong") }})
	start := time.Now()
	checkUnavailableSoon(t, h.do("POST", hostPath, "alice", chatBody("llama")), time.Since(start))
	if p := h.Snapshot().Components["node"]; p.OK || p.Detail != "it refuses our credentials" {
		t.Errorf("component node is %+v, want it not OK because of the credentials", p)
	}
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("ready: status %d, want 503", a.status)
	}
	if !h.log.has("401", "invalid username or password") || h.log.has("canary-wrong") {
		t.Error("want a log line with the node's 401 and without the password; the log:\n", h.log)
	}
}

func TestSessions_WithoutTheDatabasePassesThroughOnlyKnownOptOuts(t *testing.T) {
	t.Parallel()
	for _, optIn := range []bool{true, false} {
		t.Run(fmt.Sprintf("default opt-in %v", optIn), func(t *testing.T) {
			h := newHarness(t, setup{config: func(c *automation.Config) { c.DefaultOptIn = optIn }})
			h.do("PUT", settingsPath, "alice", validSettings)
			h.do("PUT", settingsPath, "carol", `{"is_enabled":false,"session_duration":300}`)
			h.do("POST", hostPath, "alice", chatBody("llama"))
			h.do("POST", hostPath, "carol", chatBody("llama"))
			if err := h.db.Close(); err != nil {
				t.Fatal(err)
			}
			post := func(user string) (answer, time.Duration) {
				start := time.Now()
				a := h.do("POST", hostPath, user, chatBody("llama"))
				return a, time.Since(start)
			}
			a, took := post("alice")
			checkUnavailableSoon(t, a, took)
			if a, _ := post("carol"); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != "" {
				t.Errorf("carol, who has opted out: status %d, body %s; want 200 without a session", a.status, a.body)
			}
			a, took = post("bob")
			checkUnavailableSoon(t, a, took) // bob's settings are not cached
			start := time.Now()
			checkUnavailableSoon(t, h.do("POST", hostPath, "bob", chatBody("llama"), "session_id", strings.Repeat("ab", 32)), time.Since(start))
		})
	}
}

func TestModule_NeverTreatsUnknownAsOff(t *testing.T) {
	t.Parallel()
	t.Run("the user is unknown", func(t *testing.T) {
		var got recordingHandler
		h := newHarness(t, setup{next: got.ServeHTTP})
		for _, path := range []string{hostPath, chatPath} {
			checkUnavailable(t, h.do("POST", path, "away", chatBody("llama")))
		}
		if got.calls != 0 {
			t.Error("the host's handler got a request whose user is unknown")
		}
	})
	t.Run("the flag is unknown", func(t *testing.T) {
		var got recordingHandler
		h := newHarness(t, setup{skipMigration: true, next: got.ServeHTTP})
		h.until("the flags cannot be read", func() bool { return h.Flags().Health().Err != nil })
		checkUnavailable(t, h.chat("alice"))
		checkProblem(t, h.get(settingsPath, "alice"), http.StatusServiceUnavailable)
		checkProblem(t, h.get(statusPath, "alice"), http.StatusServiceUnavailable)
		if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK || got.calls != 1 {
			t.Errorf("the host's handler behind Sessions: status %d, body %s, %d calls; want 200 and 1 call", a.status, a.body, got.calls)
		}
	})
}

func TestReady_ReportsThatThisReplicaFailsItsRequests(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	h.chat("alice") // caches her settings and opens a session
	h.untilIdle()
	h.exec(`ALTER TABLE automation_sessions RENAME TO automation_sessions_away`)
	for range 6 {
		checkUnavailable(t, h.chat("alice"))
	}
	a := h.get("/healthz/ready", "")
	if c := h.Snapshot().Components["requests"]; c.OK || a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "requests failed on this replica") {
		t.Errorf("component requests is %+v, ready has status %d, body %s; want it not OK and 503", c, a.status, a.body)
	}
	h.exec(`ALTER TABLE automation_sessions_away RENAME TO automation_sessions`)
	for range 6 {
		if a := h.chat("alice"); a.status != http.StatusOK {
			t.Errorf("status %d, body %s; want 200", a.status, a.body)
		}
	}
	if c := h.Snapshot().Components["requests"]; !c.OK {
		t.Errorf("component requests is %+v after as many successes, want it OK", c)
	}
}

func TestSessions_AnswersUnavailableBeforeTheModelsAreLoaded(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true})
	h.execAndRefresh(enableForAll)
	start := time.Now()
	checkUnavailableSoon(t, h.do("POST", hostPath, "alice", chatBody("llama")), time.Since(start))
	if p := h.Snapshot().Components; p["mapping"].OK || p["run"].OK {
		t.Errorf("components %+v, want mapping and run not OK", p)
	}
}

func TestSessions_LogsWhyASessionWasNotOpened(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Text: "no provider accepting session, key canary-node"})
	start := time.Now()
	checkUnavailableSoon(t, h.do("POST", hostPath, "alice", chatBody("llama")), time.Since(start))
	if !h.log.has("session not opened", "no provider accepting session") {
		t.Error("the log does not have the node's error; the log:\n", h.log)
	}
}

func TestSessions_ExplainsAnAcquireTimeout(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for time-outs, about 7 s")
	}
	for name, tt := range map[string]struct {
		setup setup
		want  string
	}{
		"all sessions in use":     {setup{config: func(c *automation.Config) { c.MaxSessionsPerUser = 1 }}, "stayed in use"},
		"an open that takes long": {setup{node: proxyroutertest.Options{OpenLatency: 5 * time.Second}}, "still being opened"},
	} {
		t.Run(name, func(t *testing.T) {
			hold, entered := make(chan struct{}), make(chan struct{}, 8)
			s := tt.setup
			config := s.config
			isHeld := config != nil // another request holds the only session
			s.config = func(c *automation.Config) {
				c.AcquireTimeout = 2 * time.Second
				if isHeld {
					config(c)
				}
			}
			if isHeld {
				s.next = func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-hold }
			}
			h := newHarness(t, s)
			release := sync.OnceFunc(func() { close(hold) })
			t.Cleanup(release) // otherwise the server's Close waits for the handler
			var wg sync.WaitGroup
			if isHeld {
				wg.Go(func() {
					for h.do("POST", hostPath, "alice", chatBody("llama")).status != http.StatusOK { // a busy machine may exceed AcquireTimeout first
					}
				})
				<-entered
			}
			// If the time is over during a statement, the answer is the database's error
			// instead. An open may end meanwhile, so the next attempt is another user's.
			user, attempts := "alice", 0
			h.until("the answer has the reason", func() bool {
				if attempts++; !isHeld {
					user = fmt.Sprint("user-", attempts)
				}
				a := h.do("POST", hostPath, user, chatBody("llama"))
				if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
					t.Fatalf("status %d, body %s; want 503 with Retry-After; the log:\n%s", a.status, a.body, h.log)
				}
				return strings.Contains(a.body, tt.want)
			})
			release()
			wg.Wait()
		})
	}
}
