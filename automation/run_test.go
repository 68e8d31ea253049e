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

func TestNew_NamesEverythingThatIsWrong(t *testing.T) {
	db := sqliteDB(t)
	invalid := testConfig(t)
	invalid.MappingsFile, invalid.MinSessionDuration = "", time.Second
	valid := testConfig(t) // but without a node
	for name, tt := range map[string]struct {
		cfg      automation.Config
		db       *sqlx.DB
		identify automation.Identify
		want     []string
	}{
		"an invalid Config": {invalid, db, identifyByKey, []string{"AUTOMATION_MIN_SESSION_SECONDS"}},
		"no database":       {valid, nil, identifyByKey, []string{"*sqlx.DB"}},
		"everything":        {invalid, nil, nil, []string{"AUTOMATION_MIN_SESSION_SECONDS", "*sqlx.DB", "function that identifies", "PROXY_ROUTER_URL"}},
		"no Identify":       {valid, db, nil, []string{"function that identifies"}},
		"no node":           {valid, db, identifyByKey, []string{"PROXY_ROUTER_URL"}},
	} {
		_, err := automation.New(tt.cfg, tt.db, tt.identify, automation.Options{})
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v, want %q in it", name, err, want)
			}
		}
	}
	valid.ProxyRouterURL = "http://127.0.0.1:1"
	if _, err := automation.New(valid, db, identifyByKey, automation.Options{}); err != nil {
		t.Errorf("with the URL of an unreachable node: %v; want no error, because New does no I/O", err)
	}
}

func TestLoad_NamesWhatIsWrongWithTheMapping(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want []string // in the error; numbers are lines
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
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestRun_AnswersUnavailableUntilTheMappingIsLoaded(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true})
	if err := os.Remove(h.cfg.MappingsFile); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("the module runs and has read the flags", func() bool { return h.Snapshot().Components["run"].OK && h.Snapshot().Components["flags"].OK })
	for _, path := range []string{hostPath, chatPath} {
		a := h.do("POST", path, "alice", chatBody("llama"))
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: status %d, body %s; want 503 with Retry-After", path, a.status, a.body)
		}
	}
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "not loaded") {
		t.Errorf("ready: status %d, body %s; want 503 because the mapping is not loaded", a.status, a.body)
	}
	writeJSON(t, h.cfg.MappingsFile, mappings)
	h.until("alice is served", func() bool { return h.chat("alice").status == http.StatusOK })
}

func TestNew_NeedsNoNodeAndNoMappingWhileTheFeatureIsOff(t *testing.T) {
	cfg := testConfig(t)
	cfg.FeatureEnabled, cfg.MappingsFile = false, filepath.Join(t.TempDir(), "absent.json")
	db := sqliteDB(t)
	schematest.Migrate(t, db)
	m, err := automation.New(cfg, db, identifyByKey, automation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(t.Context()); err != nil {
		t.Error(err)
	}
	h := &harness{Module: m, t: t, cfg: cfg, db: db, log: &logBuffer{}}
	h.start()
	h.until("the module runs", func() bool { return h.Snapshot().Components["run"].OK })
	called := false
	next := m.Sessions(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	r := httptest.NewRequest(http.MethodPost, chatPath, strings.NewReader(chatBody("llama")))
	r.Header.Set("Authorization", "Bearer sk-alice")
	next.ServeHTTP(httptest.NewRecorder(), r)
	if !called {
		t.Error("the host's handler did not get the request")
	}
}

func TestRun_KeepsTheLastGoodMapping(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if err := os.WriteFile(h.cfg.MappingsFile, []byte(`{"default": "canary"`), 0o600); err != nil {
		t.Fatal(err)
	}
	h.until("the module has refused the invalid mapping", func() bool { return h.Snapshot().Components["mapping"].Detail != "" })
	if a := h.get("/healthz/ready", ""); a.status != http.StatusOK || !strings.Contains(a.body, "the last good one serves") {
		t.Errorf("ready: status %d, body %s; want 200 and the reason", a.status, a.body)
	}
	if a := h.chat("alice"); a.status != http.StatusOK {
		t.Errorf("a chat by the last good mapping: status %d, body %s; want 200", a.status, a.body)
	}
	changed := mappingsWithout("llama")
	changed["lima"] = mappings["llama"]
	writeJSON(t, h.cfg.MappingsFile, changed)
	h.until("the new mapping serves", func() bool {
		return h.do("POST", chatPath, "alice", chatBody("lima")).status == http.StatusOK
	})
	if a := h.chat("alice"); a.code() != "model_not_found" {
		t.Errorf("a name that the new mapping lacks: status %d, body %s; want 400 model_not_found", a.status, a.body)
	}
}

func TestRun_StartsWithoutTheDatabaseAndRecovers(t *testing.T) {
	t.Parallel()
	t.Run("sqlite, migrated later", func(t *testing.T) {
		h := newHarness(t, setup{skipMigration: true})
		checkRecovery(t, h, func() { schematest.Migrate(t, h.db); h.exec(enableForAll) })
	})
	t.Run("postgres, started later", func(t *testing.T) {
		c := pgtest.Start(t, pgtest.Options{})
		db := func(t testing.TB) *sqlx.DB { return pgtest.Open(t, c.DSN("postgres")) }
		first := db(t)
		first.SetMaxIdleConns(0) // no connection is open when the server stops
		schematest.Migrate(t, first)
		if _, err := first.ExecContext(t.Context(), enableForAll); err != nil {
			t.Fatal(err)
		}
		c.Stop()
		h := newHarness(t, setup{skipMigration: true, db: db})
		checkRecovery(t, h, c.Restart)
		// The server stops and starts again while the module runs.
		c.Stop()
		h.until("a chat is answered 503 with Retry-After", func() bool {
			a := h.chat("alice")
			return a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != ""
		})
		h.until("Ready reports that the database is unavailable", func() bool { return !h.Snapshot().Components["database"].OK })
		if !h.Snapshot().Components["flags"].OK {
			t.Error("component flags is not OK, want the last good flags to serve")
		}
		c.Restart()
		h.until("alice is served again", func() bool { return h.chat("alice").status == http.StatusOK })
		if s := h.checkNode(); s.Opens != 1 {
			t.Errorf("%d sessions opened, want 1", s.Opens)
		}
	})
}

// checkRecovery asserts that automation is off without the database, and on after
// startDatabase.
func checkRecovery(t *testing.T, h *harness, startDatabase func()) {
	t.Helper()
	h.until("the mapping is loaded", func() bool { return h.Snapshot().Components["mapping"].OK })
	h.until("Ready reports that the database is unavailable", func() bool { return !h.Snapshot().Components["database"].OK })
	if a := h.get("/healthz/ready", ""); a.status != http.StatusServiceUnavailable || h.Snapshot().Components["flags"].OK {
		t.Errorf("ready: status %d, body %s; want 503, and component flags not OK", a.status, a.body)
	}
	if a := h.do("POST", hostPath, "alice", chatBody("llama")); a.status != http.StatusOK || a.header.Get("X-Automation-Session") != "" {
		t.Errorf("a chat through the host's handler: status %d, body %s; want 200 without a session", a.status, a.body)
	}
	checkProblem(t, h.get(settingsPath, "alice"), http.StatusServiceUnavailable)
	checkProblem(t, h.get(statusPath, "alice"), http.StatusServiceUnavailable)
	startDatabase()
	h.until("the module is ready", func() bool { return h.get("/healthz/ready", "").status == http.StatusOK })
	h.until("alice is served", func() bool { return h.chat("alice").status == http.StatusOK })
	if a := h.do("PUT", settingsPath, "alice", validSettings); a.status != http.StatusOK {
		t.Errorf("writing settings: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestModule_AnswersDespiteAFrozenDatabase(t *testing.T) {
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
	// The database stays frozen until all requests are answered, so only a
	// time-out can end each of them.
	if a := h.get(settingsPath, "alice"); a.status != http.StatusServiceUnavailable {
		t.Errorf("alice's settings: status %d, body %s; want 503", a.status, a.body)
	}
	h.get(statusPath, "bob")
	if a := h.chat("alice"); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("alice's chat: status %d, body %s; want 503 with Retry-After", a.status, a.body)
	}
	if a := h.do("POST", hostPath, "bob", chatBody("llama")); a.status != http.StatusServiceUnavailable {
		t.Errorf("bob, whose settings are not cached: status %d, body %s; want 503", a.status, a.body)
	}
	if a := h.do("POST", hostPath, "", chatBody("llama")); a.status != http.StatusOK {
		t.Errorf("a request without a user: status %d, body %s; want 200", a.status, a.body)
	}
	thaw()
	h.until("alice is served again", func() bool { return h.chat("alice").status == http.StatusOK })
	h.checkNode()
}

func TestSettings_ReportAWriteWithUnknownOutcome(t *testing.T) {
	t.Parallel()
	proxy := pgtest.NewProxy(t, schematest.Database(t))
	h := newHarness(t, setup{skipRun: true, db: func(t testing.TB) *sqlx.DB { return pgtest.Open(t, proxy.DSN()) }})
	h.execAndRefresh(enableForAll)
	proxy.LoseReplies(func(tag string) bool { return tag == "COMMIT" })
	a := h.do("PUT", settingsPath, "alice", validSettings)
	checkProblem(t, a, http.StatusServiceUnavailable)
	if !strings.Contains(a.body, "not known") || a.header.Get("Retry-After") != "1" || proxy.Lost() == 0 {
		t.Errorf("body %s, header %v, %d replies lost; want an outcome that is not known, Retry-After 1, and a lost reply", a.body, a.header, proxy.Lost())
	}
	proxy.LoseReplies(nil)
	if got := settingsOf(t, h.do("PUT", settingsPath, "alice", validSettings)); got != `alice true 1800 stored=true "1"` {
		t.Errorf("after the repeated PUT the settings are %s, want them at version 1: it changes nothing", got)
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
	t.Cleanup(release) // otherwise the server's Close waits for the handler
	r := h.request("POST", hostPath, "alice", chatBody("llama"))
	done := make(chan answer, 1)
	go func() { done <- h.send(r) }()
	<-entered
	ended := make(chan error, 1)
	go func() { ended <- h.stop() }()
	h.until("Ready answers 503", func() bool { return h.get("/healthz/ready", "").status == http.StatusServiceUnavailable })
	h.until("new chats are answered 503 with Retry-After", func() bool {
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
		t.Errorf("the request in flight: status %d, body %s; want 200", a.status, a.body)
	}
	if err := <-ended; err != nil {
		t.Error("Run:", err)
	}
	if n := h.heldSessions(); n != 0 {
		t.Errorf("after Run %d sessions are still held, want none", n)
	}
	if s := h.checkNode(); s.Closes != 0 {
		t.Errorf("%d sessions were closed at the end of Run, want none", s.Closes)
	}
}

// After the drain time-out requests are ended, and their sessions stay in service.
func TestRun_EndsRequestsAfterTheDrainTimeout(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{node: proxyroutertest.Options{ChunkDelay: time.Minute},
		config: func(c *automation.Config) { c.DrainTimeout = 0 }})
	r := h.request("POST", chatPath, "alice", chatBody("llama"))
	done := make(chan answer, 1)
	go func() { done <- h.send(r) }()
	h.until("the node has the request", func() bool { return h.node.Stats().Chats == 1 })
	start := time.Now()
	if err := h.stop(); err != nil || time.Since(start) > 20*time.Second { // 0 means no wait, not the default of 30 s
		t.Errorf("Run returned %v after %v; want no error, and no wait", err, time.Since(start))
	}
	if a := <-done; a.status != http.StatusServiceUnavailable || a.code() != "session_unavailable" || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, body %s; want 503 session_unavailable with Retry-After", a.status, a.body)
	}
	if n := h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND reason = ''`); n != 1 {
		t.Errorf("%d sessions are in service, want 1", n)
	}
}

func TestRun_RefusesASecondCall(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the second Run returned %v, want an error that says so", err)
	}
	if a := h.chat("alice"); a.status != http.StatusOK || !h.Snapshot().Components["run"].OK {
		t.Errorf("status %d, body %s; want 200, and component run OK", a.status, a.body)
	}
}

func TestEraseUser_LeavesNoRowWithTheUser(t *testing.T) {
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
				t.Errorf("%d rows still have alice's id", n)
			}
			if got := settingsOf(t, h.get(settingsPath, "alice")); got != `alice true 3600 stored=false "0"` {
				t.Errorf("alice's settings are %s, want the defaults", got)
			}
			for _, user := range []string{"alice", "bob"} {
				if a := h.chat(user, "session_id", id); a.status != http.StatusNotFound {
					t.Errorf("%s on alice's former session: status %d, body %s; want 404", user, a.status, a.body)
				}
			}
			if s := h.checkNode(); s.Closes != 0 {
				t.Errorf("%d sessions closed, want none before the session's end", s.Closes)
			}
		})
	}
}

func TestEraseUser_ReturnsErrorsWithoutTheUser(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	_ = h.db.Close()
	if err := h.EraseUser(t.Context(), "alice"); err == nil || strings.Contains(err.Error(), "alice") {
		t.Errorf("without the database: error %v, want one without the user's id", err)
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
		t.Errorf("%d sessions opened while the flag is off, want none", n)
	}
	h.execAndRefresh(`UPDATE feature_flags SET enabled = true, rollout_percentage = 100`)
	h.until("a session is kept ready", func() bool {
		return h.count(`SELECT count(*) FROM automation_sessions WHERE state = 'open' AND user_id = ''`) == 1
	})
	id := h.node.Stats().Sessions[0].ID
	if a := h.chat("alice"); a.header.Get("X-Automation-Session") != id {
		t.Errorf("status %d, body %s, header %v; want 200 on the session %s that was kept ready", a.status, a.body, a.header, id)
	}
	h.until("the next session is opened", func() bool { return h.node.Stats().Opens == 2 })
	if n := strings.Count(h.log.String(), "model of AUTOMATION_PREWARM_MODELS is unknown"); n != 1 {
		t.Errorf("the log has %d warnings about the unknown name, want 1", n)
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
		"the user has automation on": {func(*harness) {}, 2},
		"the user has opted out":     {func(h *harness) { h.do("PUT", settingsPath, "alice", `{"is_enabled":false,"session_duration":300}`) }, 1},
		"the flag is off":            {func(h *harness) { h.execAndRefresh(`UPDATE feature_flags SET enabled = false`) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, setup{config: func(c *automation.Config) { c.SweepInterval, c.RenewAhead = time.Hour, 4*time.Minute }})
			h.chat("alice")
			h.untilIdle()
			const format = "2006-01-02 15:04:05.000"
			endsAt := time.Now().UTC().Add(3 * time.Minute)
			h.execAndRefresh(fmt.Sprintf(`UPDATE automation_sessions SET ends_at = '%s', next_at = '%s'`, endsAt.Format(format), endsAt.Add(time.Minute).Format(format)))
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

func TestReady_ReportsAMalformedFlag(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{})
	h.exec(`PRAGMA ignore_check_constraints = 1`)
	h.exec(`DROP TRIGGER automation_flag_ids_update`)
	h.exec(`UPDATE feature_flags SET enabled_user_ids = '{"a":1}'`)
	h.until("the module has read the malformed row", func() bool { return h.Snapshot().Components["flags"].Detail != "" })
	if p := h.Snapshot().Components["flags"]; !p.OK || !strings.Contains(p.Detail, "malformed") {
		t.Errorf("component flags is %+v, want it OK with a detail", p)
	}
	if a := h.chat("alice"); a.status != http.StatusOK {
		t.Errorf("a chat by the last valid flag: status %d, body %s; want 200", a.status, a.body)
	}
}

func TestReady_NeedsNothingWhileTheMasterSwitchIsOff(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true, skipMigration: true, config: func(c *automation.Config) { c.FeatureEnabled = false }})
	a := h.get("/healthz/ready", "")
	if v := a.json(t); a.status != http.StatusOK || v["enabled"] != false || v["parts"].(object)["mapping"].(object)["ok"] != false {
		t.Errorf("status %d, body %s; want 200, although the mapping is not loaded", a.status, a.body)
	}
}

// Two replicas share a database and a node. A user's sessions and limits are the same
// in both.
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
					case got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "": // a busy machine's database may be too slow
						t.Errorf("status %d, body %s; want 200, or 503 with Retry-After", got.status, got.body)
					}
				})
			}
			wg.Wait()
			if served.Load() == 0 {
				t.Error("no request was served")
			}
			if s := a.checkNode(); s.Opens > 4 {
				t.Errorf("%d sessions opened, want at most 4", s.Opens)
			}
			// The other replica sees a write within two seconds.
			if got := a.do("PUT", settingsPath, "alice", `{"is_enabled":false,"session_duration":300}`); got.status != http.StatusOK {
				t.Fatalf("opting out: status %d, body %s; want 200", got.status, got.body)
			}
			start := time.Now()
			b.until("the other replica knows that alice has opted out", func() bool {
				return b.do("POST", hostPath, "alice", chatBody("llama")).header.Get("X-Automation-Session") == ""
			})
			t.Log("the other replica knew after", time.Since(start).Round(time.Millisecond))
		})
	}
}

func TestRun_ChecksTheNodesHealth(t *testing.T) {
	t.Parallel()
	h := newHarness(t, setup{skipRun: true})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpHealth, Times: 1})
	h.start()
	h.until("the module has asked the node for its health", func() bool { return len(h.node.Faults()) == 0 })
}
