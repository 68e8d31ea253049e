package automation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// identify is the host's function. For the example, the key is the user's id.
func identify(r *http.Request) (automation.Identity, error) {
	user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if !ok {
		return automation.Identity{}, errors.New("no key")
	}
	return automation.Identity{UserID: user}, nil
}

// example starts a module with a simulated node and a SQLite database.
func example() (m *automation.Module, end func()) {
	dir, err := os.MkdirTemp("", "automation")
	must(err)
	node, err := proxyroutertest.Start(proxyroutertest.Options{})
	must(err)

	cfg, err := automation.ParseConfig(map[string]string{
		"AUTOMATION_FEATURE_ENABLED": "true",
		"AUTOMATION_DEFAULT_OPT_IN":  "true",
		"MODEL_MAPPINGS_FILE":        filepath.Join("..", "model_mappings.json"),
		"PROXY_ROUTER_URL":           node.URL,
	})
	must(err)
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(dir, "automation.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	must(err)
	db.SetMaxOpenConns(1)
	ctx, cancel := context.WithCancel(context.Background())
	_, err = schema.Migrate(ctx, db)
	must(err)
	_, err = db.ExecContext(ctx, `UPDATE feature_flags SET enabled_user_ids = '["alice"]' WHERE feature_name = 'automation'`)
	must(err)

	m, err = automation.New(cfg, db, identify, automation.Options{})
	must(err)
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	for !m.Started(ctx) { // automation is off until the module has read the flags
		runtime.Gosched()
	}
	return m, func() {
		cancel()
		must(<-done)
		node.Close()
		must(db.Close())
		must(os.RemoveAll(dir))
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// send sends a request of a user to a handler.
func send(h http.Handler, method, path, user, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer sk-"+user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func ExampleNew() {
	cfg := automation.DefaultConfig()
	cfg.ProxyRouterURL = "http://127.0.0.1:8082"
	db, err := sqlx.Open("sqlite", ":memory:")
	must(err)

	m, err := automation.New(cfg, db, identify, automation.Options{}) // no I/O yet
	must(err)
	mux := http.NewServeMux()
	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle("/api/v1/chat/completions", m.Forward())
	mux.Handle("/healthz/ready", m.Ready())

	resp := send(mux, "GET", "/healthz/ready", "", "")
	fmt.Println(resp.Code, resp.Body.String()[:38])
	fmt.Println(m.Snapshot().Components["run"].Detail, db.Close())
	// Output:
	// 200 {"enabled":false,"parts":{"database":{
	// not running <nil>
}

func ExampleModule_Sessions() {
	m, end := example()
	defer end()

	yours := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println("session:", len(r.Header.Get("session_id")), "characters")
		_, _ = io.Copy(w, r.Body)
	})
	for _, user := range []string{"alice", "bob"} { // bob is not in the rollout
		resp := send(m.Sessions(yours), "POST", "/v1/chat/completions", user, `{"model":"Qwen:4b"}`)
		fmt.Println(resp.Code, resp.Header().Get("X-Automation-Model"), resp.Body)
	}
	// Output:
	// session: 66 characters
	// 200 qwen:4b {"model":"Qwen:4b"}
	// session: 0 characters
	// 200  {"model":"Qwen:4b"}
}

func ExampleModule_Forward() {
	m, end := example()
	defer end()

	for _, model := range []string{"qwen:4b", "qwen:4bb"} {
		resp := send(m.Forward(), "POST", "/v1/chat/completions", "alice",
			`{"model":"`+model+`","messages":[{"role":"user","content":"hello"}]}`)
		fmt.Println(resp.Code, strings.Contains(resp.Body.String(), "You said: hello"), strings.Contains(resp.Body.String(), "Did you mean qwen:4b?"))
	}
	// Output:
	// 200 true false
	// 400 false true
}

func ExampleModule_API() {
	m, end := example()
	defer end()

	resp := send(m.API(), "PATCH", "/api/v1/automation/settings", "alice", `{"session_duration":1800}`)
	fmt.Println(resp.Code, resp.Header().Get("ETag"))
	resp = send(m.API(), "PUT", "/api/v1/automation/settings", "alice", `{"session_duration":60}`)
	fmt.Println(resp.Body)
	resp = send(m.API(), "GET", "/api/v1/automation/settings", "bob", "")
	fmt.Println(resp.Code)
	// Output:
	// 200 "1"
	// {"title":"Bad Request","status":400,"detail":"Some fields are invalid.","errors":[{"field":"is_enabled","message":"is required"}]}
	// 404
}
