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

// setup is how a harness differs from the usual: a migrated SQLite file, a flag
// for everybody, automation on by default, a node that answers at once, and a
// module that runs.
type setup struct {
	db       func(testing.TB) *sqlx.DB
	bare     bool // no tables yet
	idle     bool // do not start Run
	flag     string
	config   func(*automation.Config)
	node     proxyroutertest.Options
	next     http.HandlerFunc // the host's own handler behind Sessions
	identify automation.Identify
	options  func(*automation.Options)
	typed    bool // a live feed that states the models' types
}

// harness is a whole module behind a server of its own.
type harness struct {
	*automation.Module
	t      testing.TB
	cfg    automation.Config
	db     *sqlx.DB
	node   *proxyroutertest.Server
	server *httptest.Server
	log    *logBuffer
	stop   func() error // ends Run and waits for it

	onFile         bool         // on a SQLite database of its own
	databaseErrors atomic.Int64 // requests that ended for the database
}

const everybody = `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`

// mappings are the models of a harness.
var mappings = map[string]string{
	"default": proxyroutertest.ModelID("llama"), "llama": proxyroutertest.ModelID("llama"),
	"Qwen 3:web": proxyroutertest.ModelID("qwen"), "embedder": proxyroutertest.ModelID("embedder"),
	"whisper": proxyroutertest.ModelID("whisper"), "möwe": proxyroutertest.ModelID("gull"),
}

func newHarness(t testing.TB, s setup) *harness {
	t.Helper()
	onFile := s.db == nil
	if onFile {
		s.db = liteDB
	}
	h := &harness{t: t, onFile: onFile, db: s.db(t), node: proxyroutertest.NewServer(t, s.node), log: &logBuffer{}, cfg: testConfig(t)}
	h.cfg.ProxyRouterURL, h.cfg.ProxyRouterUsername = h.node.URL, s.node.Username
	h.cfg.ProxyRouterPassword = automation.NewSecret(s.node.Password)
	if s.typed {
		h.cfg.ActiveModelsURL = feed(t)
	}
	if s.config != nil {
		s.config(&h.cfg)
	}
	if !s.bare {
		migrate(t, h.db)
		if s.flag == "" {
			s.flag = everybody
		}
		h.sql(s.flag)
	}
	if s.identify == nil {
		s.identify = byKey
	}
	client, err := proxyrouter.New(proxyrouter.Options{URL: h.cfg.ProxyRouterURL, Username: h.cfg.ProxyRouterUsername,
		Password: h.cfg.ProxyRouterPassword.Reveal(), BreakerPause: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.CloseIdleConnections)
	options := automation.Options{Node: client, Logger: slog.New(slog.NewJSONHandler(h.log, nil)), Observer: automation.Observer{Chat: h.checkOutcome}}
	if onFile {
		options.SetSettingsTimeout(time.Minute) // nothing but a busy machine keeps SQLite from answering
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
	if !s.idle {
		h.start()
		if !s.bare {
			h.until("the module has started", func() bool { return h.Started(context.Background()) })
		}
		if s.typed {
			h.until("the feed has been read", func() bool { return strings.Contains(h.get("/api/v1/models", "").body, "EMBEDDING") })
		}
	}
	return h
}

// checkOutcome asserts of every request through a harness that its end has one
// cause, which its code can have.
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
		h.t.Errorf("a request ended for %q with the code %q (skipped: %v): %v", o.Cause, o.Code, o.Skipped, o.Err)
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

// feed states what the models of a harness are for.
func feed(t testing.TB) string {
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

func liteDB(t testing.TB) *sqlx.DB {
	t.Helper()
	return openLite(t, filepath.Join(t.TempDir(), "canary-file.db"))
}

func openLite(t testing.TB, path string) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func migrate(t testing.TB, db *sqlx.DB) {
	t.Helper()
	schematest.Migrate(t, db)
}

// byKey knows the users of the keys sk-<user> and sk-ro-<user>.
func byKey(r *http.Request) (automation.Identity, error) {
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

// start runs the module until the test ends, or stop is called.
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

func (h *harness) sql(query string, args ...any) {
	h.t.Helper()
	if _, err := h.db.Exec(query, args...); err != nil { //nolint:noctx // a test's own
		h.t.Fatal(err)
	}
}

// set changes the flag and has the module see it.
func (h *harness) set(query string) {
	h.t.Helper()
	h.sql(query)
	if err := h.RefreshFlags(context.Background()); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) count(query string, args ...any) (n int) {
	h.t.Helper()
	if err := h.db.Get(&n, query, args...); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// testTimeout bounds how long a test waits for what must happen. Nothing is
// measured by it: a machine at a load of 50 must stay within it.
const testTimeout = 5 * time.Minute

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
			h.t.Fatalf("waited in vain until %s; the log:\n%s", what, h.log)
		}
	}
}

// healthy asserts what may never happen at the node.
func (h *harness) healthy() proxyroutertest.Stats {
	h.t.Helper()
	s := h.node.Stats()
	if s.Overlaps != 0 || s.Unknown != 0 || s.EarlyCloses != 0 || s.ClosedInUse != 0 {
		h.t.Errorf("overlaps %d, on unknown sessions %d, early closes %d, closed in use %d; want none", s.Overlaps, s.Unknown, s.EarlyCloses, s.ClosedInUse)
	}
	return s
}

// held counts the sessions that somebody holds; one that cools down is held by
// nobody.
func (h *harness) held() int {
	return h.count(`SELECT count(*) FROM automation_sessions WHERE lease_token IS NOT NULL AND lease_holder <> ''`)
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.body, err)
	}
	return v
}

// code is the error's code on the path of requests.
func (a answer) code() string {
	var v struct {
		Error struct{ Code string }
	}
	_ = json.Unmarshal([]byte(a.body), &v)
	return v.Error.Code
}

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

// send repeats a request for which a busy machine's SQLite took longer than the
// module waits for a database. Where a test breaks the database, that shows at once.
func (h *harness) send(r *http.Request) answer {
	h.t.Helper()
	for {
		begun, failed := time.Now(), h.databaseErrors.Load()
		a := h.sendOnce(r)
		if !h.onFile || r.GetBody == nil || a.status != http.StatusServiceUnavailable || time.Since(begun) < 4*time.Second || h.databaseErrors.Load() == failed {
			return a
		}
		var err error
		if r.Body, err = r.GetBody(); err != nil {
			h.t.Fatal(err)
		}
	}
}

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
	conforms(h.t, r.Method, r.URL.Path, a)
	if i := strings.Index(a.body+fmt.Sprint(a.header), "canary"); i >= 0 || strings.Contains(strings.ToLower(a.body), "sql") {
		h.t.Errorf("%s %s gives away what is internal: %s", r.Method, r.URL.Path, a.body)
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

// ask is the body of a chat request.
func ask(model string) string {
	text, _ := json.Marshal(map[string]any{"model": model, "messages": []any{map[string]any{"role": "user", "content": "hello"}}})
	return string(text)
}

func (h *harness) chat(user string, header ...string) answer {
	h.t.Helper()
	return h.do(http.MethodPost, chatPath, user, ask("llama"), header...)
}

// logBuffer keeps what was logged.
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

// without is a copy of the mapping that lacks a name.
func without(name string) map[string]string {
	m := maps.Clone(mappings)
	delete(m, name)
	return m
}
