// Package outside uses the module as a gateway does. It is compiled and run as a
// module of its own, which proves that the exported API can be used without the
// internal packages.
package outside

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/prometheus/client_golang/prometheus"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/listen"
	"github.com/MorpheusAIs/gateway-automation/flags/openfeature"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/pgpool"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// database opens a new SQLite file with all migrations.
func database(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "gateway.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	if _, err := schema.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if problems, err := schema.Verify(t.Context(), db, ""); err != nil || len(problems) > 0 {
		t.Errorf("the schema after a migration: problems %v, error %v; want none", problems, err)
	}
	return db
}

// runInBackground calls run until the test ends, and waits until it has returned.
func runInBackground(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestSession_WorksAlone(t *testing.T) {
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL})
	if err != nil {
		t.Fatal(err)
	}
	m, err := session.New(database(t), client, session.Options{MaxPerUser: 4, MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	runInBackground(t, m.Run)
	<-m.Started()
	var ids []string
	for range 2 {
		claim, err := m.Acquire(t.Context(), session.Request{UserID: "alice", ModelID: proxyroutertest.ModelID("llama"), Duration: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, claim.SessionID())
		claim.Release()
	}
	if ids[0] != ids[1] || len(node.Stats().Sessions) != 1 {
		t.Errorf("two requests used the sessions %q and the node opened %d, want the same one twice", ids, len(node.Stats().Sessions))
	}
	id, err := session.ParseID(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.End(t.Context(), "alice", id); err != nil {
		t.Error(err)
	}
}

func TestFlags_WorkAlone(t *testing.T) {
	store := flags.NewStore(database(t), flags.StoreOptions{MaxConns: 1})
	watcher := flags.NewWatcher(store, flags.Options{})
	half := 50 * flags.Percent
	if _, err := store.Update(t.Context(), automation.FlagName, flags.Change{Percentage: &half}, "operator", 0); err != nil {
		t.Fatal(err)
	}
	if err := watcher.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"alice", "bob", "carol"} {
		want := flags.Bucket(automation.FlagName, user) < int(half)
		if d := watcher.Decide(automation.FlagName, user); d.On != want {
			t.Errorf("the decision for %s is %+v, want on: %v", user, d, want)
		}
	}
	identify := func(r *http.Request) (string, bool) { return r.Header.Get("X-User"), true }
	on := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "on") })
	off := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "off") })
	handler := flags.Middleware(watcher, automation.FlagName, identify, off)(on)
	w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Header.Set("X-User", "alice")
	handler.ServeHTTP(w, r)
	if want := map[bool]string{true: "on", false: "off"}[watcher.Decide(automation.FlagName, "alice").On]; w.Body.String() != want {
		t.Errorf("the middleware served %q, want %q", w.Body, want)
	}
	_ = openfeature.New(watcher.View)
	_ = func(ctx context.Context) error {
		return listen.Run(ctx, "postgres://…", watcher.Trigger, listen.Options{})
	}
}

func TestSettings_WorkAlone(t *testing.T) {
	store, err := settings.NewStore(database(t), settings.Defaults{}, settings.StoreOptions{MaxConns: 1})
	if err != nil {
		t.Fatal(err)
	}
	runInBackground(t, func(ctx context.Context) error { store.Run(ctx); return nil })
	if _, err := store.Put(t.Context(), "alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.Always); err != nil {
		t.Fatal(err)
	}
	if got, err := store.GetCached(t.Context(), "alice"); err != nil || !got.IsEnabled {
		t.Errorf("the stored settings are %+v, error %v; want automation on", got, err)
	}
	if _, err := store.Put(t.Context(), "alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.IfVersion(99)); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("a write with a wrong version: error %v, want ErrConflict", err)
	}
}

func TestMapping_WorksAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model_mappings.json")
	if err := os.WriteFile(path, []byte(`{"llama": "`+proxyroutertest.ModelID("llama")+`", "default": "`+proxyroutertest.ModelID("llama")+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	catalog, err := mapping.New(mapping.Options{File: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m, err := catalog.Resolve("LLaMA", mapping.LLM); err != nil || m.ID != proxyroutertest.ModelID("llama") {
		t.Errorf("LLaMA resolved to %+v, error %v; want the model llama", m, err)
	}
	_, err = catalog.Resolve("lama", mapping.LLM)
	if _, ok := errors.AsType[*mapping.NotFoundError](err); !ok {
		t.Errorf("an unknown name: error %v, want a NotFoundError", err)
	}
}

func TestPool_Opens(t *testing.T) {
	db, err := pgpool.Open("postgres://gateway@db.invalid/gateway", pgpool.Options{ReadTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestRollout_WorksAlone(t *testing.T) {
	controller, err := rollout.New(database(t), rollout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := controller.Start(t.Context(), automation.FlagName, nil, "operator"); err != nil {
		t.Fatal(err)
	}
	if list, err := controller.List(t.Context()); err != nil || len(list) != 1 || list[0].State != "running" {
		t.Errorf("the rollouts are %+v, error %v; want one that is running", list, err)
	}
	if err := controller.Execute(t.Context(), automation.FlagName, "resume", "operator"); !errors.Is(err, rollout.ErrIllegal) {
		t.Errorf("resuming a running rollout: error %v, want ErrIllegal", err)
	}
	runInBackground(t, func(ctx context.Context) error { controller.Run(ctx); return nil })
	controller.Recorder(automation.FlagName).Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: "alice"})
}

func TestAutomation_RunsInAGateway(t *testing.T) {
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	path := filepath.Join(t.TempDir(), "model_mappings.json")
	if err := os.WriteFile(path, []byte(`{"llama": "`+proxyroutertest.ModelID("llama")+`", "default": "`+proxyroutertest.ModelID("llama")+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := automation.ParseConfig(map[string]string{
		"AUTOMATION_FEATURE_ENABLED": "true", "AUTOMATION_DEFAULT_OPT_IN": "true",
		"PROXY_ROUTER_URL": node.URL, "MODEL_MAPPINGS_FILE": path,
	})
	if err != nil {
		t.Fatal(err)
	}
	db := database(t)
	if _, err := db.ExecContext(t.Context(), `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`); err != nil {
		t.Fatal(err)
	}
	recorder := metrics.New(metrics.Options{})
	identify := func(r *http.Request) (automation.Identity, error) {
		return automation.Identity{UserID: r.Header.Get("X-User")}, nil
	}
	m, err := automation.New(cfg, db, identify, automation.Options{Observer: recorder.Observer(), HTTPClient: &http.Client{Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	recorder.Attach(m)
	if err := prometheus.NewRegistry().Register(recorder); err != nil {
		t.Error(err)
	}
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	runInBackground(t, m.Run)
	mux := http.NewServeMux()
	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle("POST /api/v1/chat/completions", m.Forward())
	mux.Handle("/console/", console.New(m, console.Options{}))
	for served := false; !served && t.Context().Err() == nil; {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/api/v1/chat/completions", strings.NewReader(`{"model":"llama","messages":[{"role":"user","content":"hello"}]}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-User", "alice")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if served = w.Code == http.StatusOK; served && w.Header().Get("X-Automation-Session") == "" {
			t.Errorf("the answer has no header X-Automation-Session: %v", w.Header())
		}
	}
	if !m.Flags().Decide(automation.FlagName, "alice").On {
		t.Error("Module.Flags decides that alice does not have the feature, want that she has it")
	}
}

func TestAutomation_CanBeFakedInAGatewaysOwnTests(t *testing.T) {
	var outcomes []outcome.Outcome
	g := automationtest.New(t, automationtest.Options{Observer: automation.Observer{Chat: func(o outcome.Outcome) { outcomes = append(outcomes, o) }}})
	g.On("alice")
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, automation.BasePath+"/status", nil)
	g.API().ServeHTTP(w, r)
	if w.Code == http.StatusOK && !json.Valid(w.Body.Bytes()) {
		t.Errorf("the status is not valid JSON: %s", w.Body)
	}
	db, mock := automationtest.NewMock(t)
	if db == nil || mock == nil {
		t.Error("NewMock returned nil, want a database and a mock")
	}
}
