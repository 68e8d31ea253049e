package automation_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

func TestNew_NamesAllThatIsWrong(t *testing.T) {
	db := sqliteDB(t)
	bad := testConfig(t)
	bad.MappingsFile, bad.MinSessionDuration = "", time.Second
	lost := testConfig(t)
	for name, tt := range map[string]struct {
		cfg      automation.Config
		db       *sqlx.DB
		identify automation.Identify
		want     []string
	}{
		"a Config out of bounds": {bad, db, identifyByKey, []string{"AUTOMATION_MIN_SESSION_SECONDS"}},
		"no database":            {lost, nil, identifyByKey, []string{"*sqlx.DB"}},
		"everything":             {bad, nil, nil, []string{"AUTOMATION_MIN_SESSION_SECONDS", "*sqlx.DB", "function that identifies", "PROXY_ROUTER_URL"}},
		"nobody who identifies":  {lost, db, nil, []string{"function that identifies"}},
		"no node":                {lost, db, identifyByKey, []string{"PROXY_ROUTER_URL"}},
	} {
		_, err := automation.New(tt.cfg, tt.db, tt.identify, automation.Options{})
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
	lost.ProxyRouterURL = "http://127.0.0.1:1"
	if _, err := automation.New(lost, db, identifyByKey, automation.Options{}); err != nil {
		t.Error(err) // and it asked nobody
	}
}

func TestLoad_SaysWhatIsWrongWithTheMapping(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string
	}{
		"missing":       {"", []string{"model_mappings.json"}},
		"no JSON":       {"nonsense", []string{"model_mappings.json"}},
		"many problems": {"{\n\"llama\": \"0x12\",\n\"LLAMA\": \"0x" + strings.Repeat("1", 64) + "\"\n}", []string{"2", "3", "default"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{skipRun: true})
			err := os.Remove(h.cfg.MappingsFile)
			if tt.text != "" {
				err = os.WriteFile(h.cfg.MappingsFile, []byte(tt.text), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			err = h.Load(t.Context())
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
		})
	}
}

func TestRun_WithoutAMappingAsksUsersToComeBackUntilItIsThere(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true})
	if err := os.Remove(h.cfg.MappingsFile); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("it runs", func() bool { return h.Snapshot().Components["run"].OK && h.Snapshot().Components["flags"].OK })
	for _, path := range []string{hostPath, chatPath} {
		a := h.do("POST", path, "alice", chatBody("llama"))
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, body %s; want 503 with Retry-After", path, a.status, a.body)
		}
	}
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "not loaded") {
		t.Errorf("status %d, body %s; want 503", a.status, a.body)
	}
	writeJSON(t, h.cfg.MappingsFile, mappings)
	h.until("alice is served", func() bool { return h.chat("alice").status == http.StatusOK })
}

func TestNew_NeedsNoNodeAndNoMappingWhileTheFeatureIsOff(t *testing.T) {
	cfg := testConfig(t)
	cfg.FeatureEnabled, cfg.MappingsFile = false, filepath.Join(t.TempDir(), "absent.json")
	db := sqliteDB(t)
	migrate(t, db)
	m, err := automation.New(cfg, db, identifyByKey, automation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(t.Context()); err != nil {
		t.Error(err)
	}
	h := &harness{Module: m, t: t, cfg: cfg, db: db, log: &logBuffer{}}
	h.start()
	h.until("it runs", func() bool { return h.Snapshot().Components["run"].OK })
	called := false
	next := m.Sessions(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	r := httptest.NewRequest(http.MethodPost, chatPath, strings.NewReader(chatBody("llama")))
	r.Header.Set("Authorization", "Bearer sk-alice")
	next.ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("the host's own flow does not get the request")
	}
}

func TestRun_KeepsTheLastGoodMapping(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if err := os.WriteFile(h.cfg.MappingsFile, []byte(`{"default": "canary"`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.until("the refusal shows", func() bool { return h.Snapshot().Components["mapping"].Detail != "" })
	if a := h.get("/healthz/ready", ""); a.status != http.StatusOK || !strings.Contains(a.body, "the last good one serves") {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	if a := h.chat("alice"); a.status != http.StatusOK {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	changed := mappingsWithout("llama")
	changed["lima"] = mappings["llama"]
	writeJSON(t, h.cfg.MappingsFile, changed)
	h.until("the new one serves", func() bool {
		return h.do("POST", chatPath, "alice", chatBody("lima")).status == http.StatusOK
	})
	if a := h.chat("alice"); a.code() != "model_not_found" {
		t.Errorf("status %d, body %s; want model_not_found", a.status, a.body)
	}
}

func TestRun_StartsWithoutTheDatabaseAndRecovers(t *testing.T) {
	t.Parallel()
	t.Run("sqlite, migrated later", func(t *testing.T) {
		h := newHarness(t, setup{skipMigration: true})
		checkRecovery(t, h, func() { migrate(t, h.db); h.exec(enableForAll) })
	})
	t.Run("postgres, started later", func(t *testing.T) {
		c := pgtest.Start(t, pgtest.Options{})
		db := func(t testing.TB) *sqlx.DB { return pgtest.Open(t, c.DSN("postgres")) }
		first := db(t)
		first.SetMaxIdleConns(0) // none that stands when the server goes
		migrate(t, first)
		if _, err := first.ExecContext(t.Context(), enableForAll); err != nil {
			t.Fatal(err)
		}
		c.Stop()
		h := newHarness(t, setup{skipMigration: true, db: db})
		checkRecovery(t, h, c.Restart)
		// And it goes away and comes back while the module runs.
		c.Stop()
		h.until("the next request is told to come back", func() bool {
			a := h.chat("alice")
			return a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != ""
		})
		h.until("readiness says so", func() bool { return !h.Snapshot().Components["database"].OK })
		if !h.Snapshot().Components["flags"].OK {
			t.Error("the last good flags are not served")
		}
		c.Restart()
		h.until("alice is served again", func() bool { return h.chat("alice").status == http.StatusOK })
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d opens, want 1", s.Opens)
		}
	})
}

// recovers asserts that automation is off without the database, and on once it is there.
func checkRecovery(t *testing.T, h *harness, comes func()) {
	t.Helper()
	h.until("the mapping is loaded", func() bool { return h.Snapshot().Components["mapping"].OK })
	h.until("readiness says that the database is away", func() bool { return !h.Snapshot().Components["database"].OK })
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable || h.Snapshot().Components["flags"].OK {
		t.Errorf("status %d, body %s; want 503", a.status, a.body)
	}
	if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != "" {
		t.Errorf("not untouched: status %d, body %s; want 200", a.status, a.body)
	}
	checkProblem(t, h.get(settingsPath, "alice"), http.StatusServiceUnavailable)
	checkProblem(t, h.get(statusPath, "alice"), http.StatusServiceUnavailable)
	comes()
	h.until("it is ready", func() bool { return h.get("/healthz/ready", "").status == http.StatusOK })
	h.until("alice is served", func() bool { return h.chat("alice").status == http.StatusOK })
	if a := h.do("PUT", settingsPath, "alice", validSettings); a.status != http.StatusOK {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
}

func TestModule_KeepsNobodyLongOnAFrozenDatabase(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for the database's time-outs, about 20 s")
	}
	c := pgtest.Start(t, pgtest.Options{})
	h := newHarness(t, setup{db: func(t testing.TB) *sqlx.DB { return pgtest.Open(t, c.DSN("postgres")) },
		config: func(c *automation.Config) { c.DefaultOptIn = false }})
	h.do("PUT", settingsPath, "alice", validSettings)
	h.chat("alice")
	h.untilIdle()
	c.Freeze()
	thaw := sync.OnceFunc(c.Thaw)
	defer thaw()
	// The database stays frozen until the answers are there, so that only a
	// time-out can have ended each.
	if a := h.get(settingsPath, "alice"); a.status != http.StatusServiceUnavailable {
		t.Error(a.body)
	}
	h.get(statusPath, "bob")
	if a := h.chat("alice"); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Error(a.body)
	}
	if a := h.do("POST", hostPath, "bob", chatBody("llama")); a.status != http.StatusServiceUnavailable {
		t.Error(a.body)
	}
	if a := h.do("POST", hostPath, "", chatBody("llama")); a.status != http.StatusOK {
		t.Error(a.body)
	}
	thaw()
	h.until("alice is served again", func() bool { return h.chat("alice").status == http.StatusOK })
	h.checkNode()
}

func TestAPI_SaysThatAWritesOutcomeIsUnknown(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, schematest.Database(t))
	h := newHarness(t, setup{skipRun: true, db: func(t testing.TB) *sqlx.DB { return pgtest.Open(t, proxy.DSN()) }})
	h.execAndRefresh(enableForAll)
	proxy.LoseReplies(func(tag string) bool { return tag == "COMMIT" })
	a := h.do("PUT", settingsPath, "alice", validSettings)
	checkProblem(t, a, http.StatusServiceUnavailable)
	if !strings.Contains(a.body, "not known") || a.header.Get("Retry-After") != "1" || proxy.Lost() == 0 {
		t.Errorf("%s %v", a.body, a.header)
	}
	proxy.LoseReplies(nil)
	if got := settingsOf(t, h.do("PUT", settingsPath, "alice", validSettings)); got != `alice true 1800 stored=true "1"` {
		t.Error(got) // sent again it changes nothing
	}
}

func TestRun_LetsRequestsInFlightFinish(t *testing.T) {
	t.Parallel()
	hold, entered := make(chan struct{}), make(chan struct{})
	h := newHarness(t, setup{next: func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-hold
		if r.Context().Err() != nil {
			w.WriteHeader(http.StatusTeapot)
		}
	}})
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release) // or the server waits without end
	r := h.request("POST", hostPath, "alice", chatBody("llama"))
	done := make(chan answer, 1)
	go func() { done <- h.send(r) }()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- h.stop() }()
	h.until("it is not ready any more", func() bool { return h.get("/healthz/ready", "").status == http.StatusServiceUnavailable })
	h.until("others are told to come back", func() bool {
		a := h.do("POST", chatPath, "bob", chatBody("llama"))
		return a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != ""
	})
	select {
	case err := <-ended:
		t.Fatalf("Run returned %v with a request in flight", err)
	default:
	}
	release()
	if a := <-done; a.status != http.StatusOK {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := h.heldSessions(); n != 0 {
		t.Errorf("%d leases are held", n)
	}
	if s := h.checkNode(); s.Closes != 0 {
		t.Errorf("%d sessions were closed on the way out", s.Closes)
	}
}

// A drain that takes too long ends the requests, and breaks no session for it.
func TestRun_EndsRequestsAfterTheDrain(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{ChunkDelay: time.Minute},
		config: func(c *automation.Config) { c.DrainTimeout = 0 }})
	r := h.request("POST", chatPath, "alice", chatBody("llama"))
	done := make(chan answer, 1)
	go func() { done <- h.send(r) }()
	h.until("the node has the request", func() bool { return h.node.Stats().Chats == 1 })
	start := time.Now()
	if err := h.stop(); err != nil || time.Since(start) > 20*time.Second { // none is none, and not the default of 30 s
		t.Error(err, time.Since(start))
	}
	if a := <-done; a.status != http.StatusServiceUnavailable || a.code() != "session_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, body %s; want 503 session_unavailable with Retry-After", a.status, a.body)
	}
	if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != 1 {
		t.Errorf("%d sessions are in service, want the one", n)
	}
}

func TestRun_RefusesASecondCall(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Error(err)
	}
	if a := h.chat("alice"); a.status != http.StatusOK || !h.Snapshot().Components["run"].OK {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
}

func TestEraseUser_LeavesNoRowThatNamesThem(t *testing.T) {
	t.Parallel()
	for name, db := range databases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{db: db})
			h.do("PUT", settingsPath, "alice", validSettings)
			id := h.chat("alice").header.Get("X-Automation-Session")
			h.untilIdle()
			h.exec(`INSERT INTO automation_user_failures (user_id, cause, code, began_at, failed_at, requests) VALUES ('alice', 'node', '', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 1)`)
			for range 2 {
				if err := h.EraseUser(t.Context(), "alice"); err != nil {
					t.Fatal(err)
				}
			}
			if n := h.count(`SELECT (SELECT count(*) FROM user_automation_settings WHERE user_id = 'alice')
				+ (SELECT count(*) FROM automation_sessions WHERE user_id = 'alice' OR owner_id = 'alice')
				+ (SELECT count(*) FROM automation_user_failures WHERE user_id = 'alice')`); n != 0 {
				t.Errorf("%d rows name alice", n)
			}
			if got := settingsOf(t, h.get(settingsPath, "alice")); got != `alice true 3600 stored=false "0"` {
				t.Error(got)
			}
			for _, user := range []string{"alice", "bob"} {
				if a := h.chat(user, "session_id", id); a.status != http.StatusNotFound {
					t.Errorf("%s on the session: status %d, body %s; want 404", user, a.status, a.body)
				}
			}
			if s := h.checkNode(); s.Closes != 0 {
				t.Error("the session was closed early")
			}
		})
	}
}

func TestEraseUser_SaysWhatFailed(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	_ = h.db.Close()
	if err := h.EraseUser(t.Context(), "alice"); err == nil || strings.Contains(err.Error(), "alice") {
		t.Error(err)
	}
}

func TestRun_PrewarmsModelsWhileTheFeatureIsOn(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for real intervals")
	}
	h := newHarness(t, setup{flagSQL: `UPDATE feature_flags SET enabled = false`, config: func(c *automation.Config) {
		c.PrewarmModels = []string{"llama", "misspelt"}
	}})
	if n := h.node.Stats().OpenRequests; n != 0 {
		t.Errorf("%d opens while the flag is off", n)
	}
	h.execAndRefresh(`UPDATE feature_flags SET enabled = true, rollout_percentage = 100`)
	h.until("one is ready", func() bool {
		return h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND user_id = ''`) == 1
	})
	id := h.node.Stats().Sessions[0].ID
	if a := h.chat("alice"); a.header.Get("X-Automation-Session") != id {
		t.Errorf("status %d, body %s, header %v", a.status, a.body, a.header)
	}
	h.until("there is a next one", func() bool { return h.node.Stats().Opens == 2 })
	if n := strings.Count(h.log.String(), "model of AUTOMATION_PREWARM_MODELS is unknown"); n != 1 {
		t.Errorf("complained %d times about a name", n)
	}
}

func TestRun_RenewsASessionInUse(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for real intervals")
	}
	for name, tt := range map[string]struct {
		prepare func(*harness)
		opens   int
	}{
		"while its user has automation on":   {func(*harness) {}, 2},
		"not when they have switched it off": {func(h *harness) { h.do("PUT", settingsPath, "alice", `{"is_enabled":false,"session_duration":300}`) }, 1},
		"not without the feature":            {func(h *harness) { h.execAndRefresh(`UPDATE feature_flags SET enabled = false`) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{config: func(c *automation.Config) { c.SweepInterval, c.RenewAhead = time.Hour, 4*time.Minute }})
			h.chat("alice")
			h.untilIdle()
			const format = "2006-01-02 15:04:05.000"
			outcomeRecorder := time.Now().UTC().Add(3 * time.Minute)
			h.execAndRefresh(fmt.Sprintf(`UPDATE automation_sessions SET ends_at = '%s', next_at = '%s'`, outcomeRecorder.Format(format), outcomeRecorder.Add(time.Minute).Format(format)))
			tt.prepare(h)
			if err := h.Maintain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := h.count(`SELECT count(*) FROM automation_sessions`); n != tt.opens {
				t.Errorf("%d sessions, want %d; the log:\n%s", n, tt.opens, h.log)
			}
		})
	}
}

func TestReady_NamesAFlagThatCannotBeRead(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	h.exec(`PRAGMA ignore_check_constraints = 1`)
	h.exec(`DROP TRIGGER automation_flag_ids_update`)
	h.exec(`UPDATE feature_flags SET enabled_user_ids = '{"a":1}'`)
	h.until("it shows", func() bool { return h.Snapshot().Components["flags"].Detail != "" })
	if p := h.Snapshot().Components["flags"]; !p.OK || !strings.Contains(p.Detail, "malformed") {
		t.Errorf("%+v", p)
	}
	if a := h.chat("alice"); a.status != http.StatusOK {
		t.Errorf("the flag did not stay as it was: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestReady_NeedsNothingWhileTheMasterSwitchIsOff(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true, skipMigration: true, config: func(c *automation.Config) { c.FeatureEnabled = false }})
	a := h.get("/healthz/ready", "")
	if v := a.json(t); a.status != http.StatusOK || v["enabled"] != false || v["parts"].(object)["mapping"].(object)["ok"] != false {
		t.Errorf("status %d, body %s; want 200", a.status, a.body)
	}
}

// Replicas share one database and one node, and a user has one budget.
func TestReplicas_ShareSessions(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(testing.TB) func(testing.TB) *sqlx.DB{
		"sqlite": func(t testing.TB) func(testing.TB) *sqlx.DB {
			path := filepath.Join(t.TempDir(), "shared.db")
			return func(t testing.TB) *sqlx.DB { return openSQLite(t, path) }
		},
		"postgres": func(t testing.TB) func(testing.TB) *sqlx.DB {
			dsn := schematest.Database(t)
			return func(t testing.TB) *sqlx.DB { return pgtest.Open(t, dsn) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			a := newHarness(t, setup{db: db, node: proxyroutertest.Options{ChunkDelay: 2 * time.Millisecond}})
			b := newHarness(t, setup{db: db, config: func(c *automation.Config) { c.ProxyRouterURL = a.node.URL }})
			var wg sync.WaitGroup
			var served atomic.Int32
			for i := range 32 {
				h := []*harness{a, b}[i%2]
				wg.Go(func() {
					switch got := h.chat("alice"); {
					case got.status == http.StatusOK:
						served.Add(1)
					case got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "": // a busy machine's database is late
						t.Errorf("status %d, body %s", got.status, got.body)
					}
				})
			}
			wg.Wait()
			if served.Load() == 0 {
				t.Error("nobody was served")
			}
			if s := a.checkNode(); s.Opens > 4 {
				t.Errorf("%d opens", s.Opens)
			}
			// What is written by one shows in the other within two seconds.
			if got := a.do("PUT", settingsPath, "alice", `{"is_enabled":false,"session_duration":300}`); got.status != http.StatusOK {
				t.Fatal(got.body)
			}
			start := time.Now()
			b.until("the other knows", func() bool {
				return b.do("POST", hostPath, "alice", chatBody("llama")).header.Get("X-Automation-Session") == ""
			})
			t.Log("the other replica knew after", time.Since(start).Round(time.Millisecond))
		})
	}
}

func TestRun_WatchesTheNodesHealth(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpHealth, Times: 1})
	h.start()
	h.until("the node has been asked for its health", func() bool { return len(h.node.Faults()) == 0 })
}
