package gatewayautomation_test

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// mount is what README.md and doc.go show between the two marks.
func mount(ctx context.Context, db *sqlx.DB, mux *http.ServeMux, identify automation.Identify, chat http.Handler, logger *slog.Logger) (<-chan error, error) {
	// shown:
	cfg, err := automation.LoadConfig() // docs/environment.md has the variables
	if err != nil {
		return nil, err
	}
	if _, err := schema.Migrate(ctx, db); err != nil {
		return nil, err
	}
	m, err := automation.New(cfg, db, identify, automation.Options{Logger: logger})
	if err != nil {
		return nil, err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- m.Run(ctx) }()

	mux.Handle(automation.BasePath+"/", m.API())
	mux.Handle("POST /api/v1/chat/completions", m.Sessions(chat)) // or m.Forward()
	mux.Handle("GET /healthz/ready", m.Ready())
	// :shown
	return stopped, nil
}

func TestTheGatewayThatTheDocsShowWorks(t *testing.T) {
	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	t.Setenv("PROXY_ROUTER_URL", node.URL)
	t.Setenv("AUTOMATION_FEATURE_ENABLED", "true")
	t.Setenv("AUTOMATION_DEFAULT_OPT_IN", "true")
	t.Setenv("AUTOMATION_FLAG_POLL_INTERVAL", "10ms")
	pool, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "gateway.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	db := sqlx.NewDb(pool, "sqlite")
	db.SetMaxOpenConns(1)

	identify := func(r *http.Request) (automation.Identity, error) {
		return automation.Identity{UserID: r.Header.Get("X-User")}, nil
	}
	chat := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("session_id"))
	})
	ctx, cancel := context.WithCancel(t.Context())
	mux := http.NewServeMux()
	stopped, err := mount(ctx, db, mux, identify, chat, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`); err != nil {
		t.Fatal(err)
	}
	// The flag is read in a while; until then the handler gets no session.
	var session string
	for session == "" && t.Context().Err() == nil {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/chat/completions", strings.NewReader(`{"model":"llama-3.3-70b"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-User", "alice")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		if w.Code == http.StatusOK {
			session = w.Body.String()
		}
	}
	if paid := node.Stats().Sessions; len(paid) != 1 || paid[0].ID != session {
		t.Errorf("the handler got session %q, the node has %+v", session, paid)
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Errorf("Run ended with %v", err)
	}
}

func TestTheDocsShowWhatIsTested(t *testing.T) {
	source := read(t, "frame_test.go")
	_, rest, _ := strings.Cut(source, "\t// shown:\n")
	shown, _, found := strings.Cut(rest, "\t// :shown\n")
	if !found {
		t.Fatal("frame_test.go has lost its marks")
	}
	readme := regexp.MustCompile(`(?m)^\t`).ReplaceAllString(shown, "")
	if !strings.Contains(read(t, "README.md"), "```go\n"+readme+"```") {
		t.Errorf("README.md does not show:\n%s", readme)
	}
	comment := regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSuffix(shown, "\n"), "//")
	comment = strings.ReplaceAll(comment, "//\n", "//\n")
	if !strings.Contains(read(t, "doc.go"), comment) {
		t.Errorf("doc.go does not show:\n%s", comment)
	}
}

// A path in the docs, or a package's, is there.
func TestTheDocsPointToWhatIsThere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, file := range files(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			}
		}
	}
}

func TestEveryDecisionIsListed(t *testing.T) {
	index := read(t, "docs/decisions/README.md")
	for _, file := range files(t, ".md") {
		if name := filepath.Base(file); filepath.Dir(file) == "docs/decisions" && name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
	}
}

// sleepers may sleep outside a bubble.
var sleepers = map[string]string{
	"frame_test.go":              "it names the function",
	"flags/listen/bench_test.go": "its benchmark looks again and again for what a real database tells",
}

// The linter lets tests sleep, because a test in a synctest bubble does so to
// let time pass. This holds them to it.
func TestNoTestSleepsOutsideABubble(t *testing.T) {
	for _, file := range files(t, "_test.go") {
		text := read(t, file)
		if sleepers[file] == "" && strings.Contains(text, "time.Sleep(") && !strings.Contains(text, `"testing/synctest"`) {
			t.Errorf("%s sleeps and knows no synctest", file)
		}
	}
}

func files(t *testing.T, suffix string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, suffix) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		t.Fatal(len(paths), err)
	}
	return paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
}
