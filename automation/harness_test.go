package automation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// setup changes the defaults of a harness: a migrated SQLite file, a flag that is on
// for all users, users who have automation on, a node that answers at once, and a
// module that runs.
type setup struct {
	db            func(testing.TB) *sqlx.DB // opens the database; nil means a new SQLite file
	skipMigration bool                      // create no tables
	skipRun       bool                      // do not start Module.Run
	flagSQL       string                    // sets the flag; empty means enableForAll
	config        func(*automation.Config)  // changes the configuration
	node          proxyroutertest.Options
	next          http.HandlerFunc    // the host's own handler behind Sessions; nil answers with the session_id
	identify      automation.Identify // nil means identifyByKey
	options       func(*automation.Options)
	withFeed      bool // serve a live feed that has the models' types
}

// harness is a module with its database, a simulated node and an HTTP server.
type harness struct {
	*automation.Module
	t      testing.TB // replaced by each sub-test that shares the harness
	cfg    automation.Config
	db     *sqlx.DB
	node   *proxyroutertest.Server
	server *httptest.Server
	log    *logBuffer
	stop   func() error // ends Module.Run and returns its error

	hasOwnSQLite   bool         // the database is a SQLite file that no other harness uses
	databaseErrors atomic.Int64 // requests whose cause was outcome.Database
}

// enableForAll is a statement that includes all users in the feature.
const enableForAll = `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`

// mappings maps the names of a harness's models to their ids.
var mappings = map[string]string{
	"default": proxyroutertest.ModelID("llama"), "llama": proxyroutertest.ModelID("llama"),
	"Qwen 3:web": proxyroutertest.ModelID("qwen"), "embedder": proxyroutertest.ModelID("embedder"),
	"whisper": proxyroutertest.ModelID("whisper"), "möwe": proxyroutertest.ModelID("gull"),
}

func newHarness(t testing.TB, s setup) *harness {
	t.Helper()
	hasOwnSQLite := s.db == nil
	if hasOwnSQLite {
		s.db = sqliteDB
	}
	h := &harness{t: t, hasOwnSQLite: hasOwnSQLite, db: s.db(t), node: proxyroutertest.NewServer(t, s.node), log: &logBuffer{}, cfg: testConfig(t)}
	h.cfg.ProxyRouterURL, h.cfg.ProxyRouterUsername = h.node.URL, s.node.Username
	h.cfg.ProxyRouterPassword = automation.NewSecret(s.node.Password)
	if s.withFeed {
		h.cfg.ActiveModelsURL = startFeed(t)
	}
	if s.config != nil {
		s.config(&h.cfg)
	}
	if !s.skipMigration {
		schematest.Migrate(t, h.db)
		if s.flagSQL == "" {
			s.flagSQL = enableForAll
		}
		h.exec(s.flagSQL)
	}
	if s.identify == nil {
		s.identify = identifyByKey
	}
	client, err := proxyrouter.New(proxyrouter.Options{URL: h.cfg.ProxyRouterURL, Username: h.cfg.ProxyRouterUsername,
		Password: h.cfg.ProxyRouterPassword.Reveal(), BreakerPause: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	options := automation.Options{Node: client, Logger: slog.New(slog.NewJSONHandler(h.log, nil)), Observer: automation.Observer{Chat: h.checkOutcome}}
	if hasOwnSQLite {
		options.SetSettingsTimeout(time.Minute) // only a busy machine makes SQLite slow
	}
	if s.options != nil {
		s.options(&options)
	}
	h.Module, err = automation.New(h.cfg, h.db, s.identify, options)
	if err != nil {
		t.Fatal(err)
	}
	if s.next == nil {
		s.next = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, r.Header.Get("session_id"))
		}
	}
	mux := http.NewServeMux()
	mux.Handle(automation.BasePath+"/", h.API())
	mux.Handle("/api/v1/", h.Forward())
	mux.Handle("/api/v1/models", h.Models())
	mux.Handle("/api/v1/models/", h.Models())
	mux.Handle("/forward/", h.Forward())
	mux.Handle("/host/", h.Sessions(s.next))
	mux.Handle("/healthz/live", h.Live())
	mux.Handle("/healthz/ready", h.Ready())
	mux.Handle("/openapi.json", h.OpenAPI())
	h.server = httptest.NewServer(mux)
	t.Cleanup(h.server.Close)
	h.stop = func() error { return nil }
	if !s.skipRun {
		h.start()
		if !s.skipMigration {
			h.until("the module has started", func() bool { return h.Started(context.Background()) })
		}
		if s.withFeed {
			h.until("the feed has been read", func() bool { return strings.Contains(h.get("/api/v1/models", "").body, "EMBEDDING") })
		}
	}
	return h
}

// checkOutcome asserts for every request of a harness that the outcome's cause and
// code belong together.
func (h *harness) checkOutcome(o outcome.Outcome) {
	if o.Cause == outcome.Database {
		h.databaseErrors.Add(1)
	}
	var ok bool
	switch {
	case o.Skipped:
		ok = slices.Contains(policy.Skips(), o.Code)
	case o.Cause == outcome.None:
		ok = o.Code == ""
	default:
		ok = slices.Contains(policy.CausesOf(o.Code), o.Cause)
	}
	if !ok || !slices.Contains(policy.Causes(), o.Cause) {
		h.t.Errorf("a request ended with cause %q, code %q, skipped %v: package policy does not allow that combination; error: %v", o.Cause, o.Code, o.Skipped, o.Err)
	}
}

func testConfig(t testing.TB) automation.Config {
	c := automation.DefaultConfig()
	c.FeatureEnabled, c.DefaultOptIn = true, true
	c.MappingsFile = filepath.Join(t.TempDir(), "model_mappings.json")
	writeJSON(t, c.MappingsFile, mappings)
	c.FlagPollInterval, c.MappingReloadInterval = 100*time.Millisecond, 50*time.Millisecond
	c.SweepInterval, c.AcquireTimeout, c.DrainTimeout = 50*time.Millisecond, 2*time.Minute, time.Minute
	c.SessionCoolDown = 100 * time.Millisecond
	c.MaxOpensPerHour, c.MaxOpensPerDay = 0, 0
	return c
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// startFeed serves a live feed with the types of a harness's models, and returns its
// URL.
func startFeed(t testing.TB) string {
	kinds := map[string]string{"llama": "LLM", "embedder": "EMBEDDING", "whisper": "STT"}
	var models []map[string]any
	for _, name := range []string{"llama", "embedder", "whisper"} {
		models = append(models, map[string]any{"Id": proxyroutertest.ModelID(name), "Name": name, "ModelType": kinds[name], "IsDeleted": false})
	}
	text, err := json.Marshal(map[string]any{"models": models})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }))
	t.Cleanup(s.Close)
	return s.URL
}

func sqliteDB(t testing.TB) *sqlx.DB {
	t.Helper()
	return openSQLite(t, filepath.Join(t.TempDir(), "canary-file.db"))
}

func openSQLite(t testing.TB, path string) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// identifyByKey identifies users by the keys sk-<user> and, for read-only access,
// sk-ro-<user>. With the key sk-away it reports that identification is unavailable.
func identifyByKey(r *http.Request) (automation.Identity, error) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if key == "away" {
		return automation.Identity{}, fmt.Errorf("canary-identity: %w", automation.ErrIdentityUnavailable)
	}
	if !ok {
		return automation.Identity{}, errors.New("canary-identity: no key")
	}
	user, readOnly := strings.CutPrefix(key, "ro-")
	return automation.Identity{UserID: user, ReadOnly: readOnly}, nil
}

// start runs the module until the test ends or stop is called.
func (h *harness) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-done })
	h.t.Cleanup(func() {
		if err := h.stop(); err != nil {
			h.t.Error("Run:", err)
		}
	})
}

func (h *harness) exec(query string, args ...any) {
	h.t.Helper()
	if _, err := h.db.Exec(query, args...); err != nil { //nolint:noctx // a test needs no deadline
		h.t.Fatal(err)
	}
}

// execAndRefresh executes a statement and makes the module read the flags.
func (h *harness) execAndRefresh(query string) {
	h.t.Helper()
	h.exec(query)
	if err := h.RefreshFlags(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

// count returns the number that a query selects.
func (h *harness) count(query string, args ...any) (n int) {
	h.t.Helper()
	if err := h.db.Get(&n, query, args...); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// testTimeout is how long a test waits for an event that must happen. It is long
// enough for a machine at a load of 50.
const testTimeout = 5 * time.Minute

// until waits until ok returns true; what describes that for the failure text.
func (h *harness) until(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			h.t.Fatalf("timed out waiting until %s; the log:\n%s", what, h.log)
		}
	}
}

// untilIdle waits until no request holds a session.
func (h *harness) untilIdle() {
	h.t.Helper()
	h.until("no session is held", func() bool { return h.heldSessions() == 0 })
}

// checkNode asserts that nothing forbidden happened at the node, such as two requests
// on one session at once. It returns what the node counted.
func (h *harness) checkNode() proxyroutertest.Stats {
	h.t.Helper()
	s := h.node.Stats()
	if s.Overlaps != 0 || s.Unknown != 0 || s.EarlyCloses != 0 || s.ClosedInUse != 0 {
		h.t.Errorf("the node counted %d overlapping requests, %d requests on unknown sessions, %d sessions closed early and %d closed in use; want 0 of each", s.Overlaps, s.Unknown, s.EarlyCloses, s.ClosedInUse)
	}
	return s
}

// heldSessions counts the sessions that a replica holds a lease of. A session that
// cools down has a lease without a holder, and is not counted.
func (h *harness) heldSessions() int {
	return h.count(`SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL AND lease_holder <> ''`)
}

// answer is a response whose body has been read.
type answer struct {
	status int
	header http.Header
	body   string
}

// json decodes the body.
func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("status %d, body %q: %v; want JSON", a.status, a.body, err)
	}
	return v
}

// code returns the code of an error in OpenAI's shape, or "".
func (a answer) code() string {
	var v struct {
		Error struct{ Code string }
	}
	_ = json.Unmarshal([]byte(a.body), &v)
	return v.Error.Code
}

// request makes a request; header is a list of names and values in turn.
func (h *harness) request(method, path, user, body string, header ...string) *http.Request {
	h.t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, h.server.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	if user != "" {
		r.Header.Set("Authorization", "Bearer sk-"+user)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

// send sends a request. It repeats one that failed because SQLite on a busy machine
// took longer than the module waits for a database. If a test breaks the database on
// purpose, the request fails at once and is not repeated.
func (h *harness) send(r *http.Request) answer {
	h.t.Helper()
	for {
		start, failed := time.Now(), h.databaseErrors.Load()
		a := h.sendOnce(r)
		canRepeat := h.hasOwnSQLite && r.GetBody != nil
		wasDatabaseSlow := h.databaseErrors.Load() > failed && time.Since(start) >= 4*time.Second
		if a.status != http.StatusServiceUnavailable || !canRepeat || !wasDatabaseSlow {
			return a
		}
		var err error
		if r.Body, err = r.GetBody(); err != nil {
			h.t.Fatal(err)
		}
	}
}

// sendOnce sends a request. It asserts that openapi.json declares the answer, and that
// the answer has neither SQL nor a text with "canary", as tests put into errors.
func (h *harness) sendOnce(r *http.Request) answer {
	h.t.Helper()
	resp, err := h.server.Client().Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header, string(body)}
	checkAgainstOpenAPI(h.t, r.Method, r.URL.Path, a)
	if strings.Contains(a.body+fmt.Sprint(a.header), "canary") || strings.Contains(strings.ToLower(a.body), "sql") {
		h.t.Errorf("%s %s: the answer reveals internal details: %s", r.Method, r.URL.Path, a.body)
	}
	return a
}

func (h *harness) do(method, path, user, body string, header ...string) answer {
	h.t.Helper()
	return h.send(h.request(method, path, user, body, header...))
}

func (h *harness) get(path, user string, header ...string) answer {
	h.t.Helper()
	return h.do(http.MethodGet, path, user, "", header...)
}

const (
	chatPath = "/api/v1/chat/completions"
	hostPath = "/host/v1/chat/completions"
)

// chatBody returns the body of a chat request.
func chatBody(model string) string {
	text, _ := json.Marshal(map[string]any{"model": model, "messages": []any{map[string]any{"role": "user", "content": "hello"}}})
	return string(text)
}

// chat sends a chat request to Forward.
func (h *harness) chat(user string, header ...string) answer {
	h.t.Helper()
	return h.do(http.MethodPost, chatPath, user, chatBody("llama"), header...)
}

// newAnsweringNode starts a node that answers forwarded requests with answer, and all
// others as the simulated node does.
func newAnsweringNode(t testing.TB, simulated *proxyroutertest.Server, answer http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/v1/") {
			simulated.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// logBuffer collects log lines.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// has reports whether one line contains all parts.
func (b *logBuffer) has(parts ...string) bool {
	for line := range strings.Lines(b.String()) {
		found := true
		for _, p := range parts {
			found = found && strings.Contains(line, p)
		}
		if found {
			return true
		}
	}
	return false
}

// mappingsWithout returns a copy of mappings that lacks a name.
func mappingsWithout(name string) map[string]string {
	m := maps.Clone(mappings)
	delete(m, name)
	return m
}
