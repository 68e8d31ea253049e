package automation_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// largeConsole returns the console of a large deployment: a thousand replicas, a flag
// with lists of 10,000 ids, feedback of the maximum length, a rollout of three days,
// and the given number of sessions within a month.
func largeConsole(t testing.TB, sessions int) (h *harness, pages http.Handler) {
	t.Helper()
	h = newHarness(t, setup{db: func(t testing.TB) *sqlx.DB { return pgtest.Open(t, schematest.Database(t)) }})
	if _, err := rollout.NewStore(h.db).Create(t.Context(), automation.FlagName, rollout.DefaultPlan(), "test"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, reason, last_error, provider, created_at, opened_at, ends_at, next_at, closed_at)
			SELECT 'id-' || i, '0x' || encode(sha256(i::text::bytea), 'hex'), '%[2]s', 'u' || i %% 20000, 'u' || i %% 20000, at, 3600,
				CASE WHEN i <= %[1]d / 100 THEN 'open' WHEN i %% 50 = 0 THEN 'failed' ELSE 'closed' END, CASE WHEN i %% 50 = 0 THEN 'refused' ELSE '' END,
				CASE WHEN i %% 50 = 0 THEN repeat('<', 500) ELSE '' END, '0x' || repeat('ab', 20), at, at, at + interval '31 days', now() + interval '1 day', at
			FROM generate_series(1, %[1]d) AS i, LATERAL (SELECT now() - i * interval '30 days' / %[1]d AS at) AS x`, sessions, mappings["llama"]),
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) SELECT 'u' || i, i % 10 > 0, 3600 FROM generate_series(1, 20000) AS i`,
		`INSERT INTO automation_replicas (id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, problems, requests, failures, node_failures, figures)
			SELECT i, 'gateway-' || i, 'v0.1.0', now(), now() + interval '1 day', true, 1, 1, '{"node": "it does not answer"}', 10, 1, 1,
				'{"served": 9, "failed": {"node": 1}, "overhead": [5, 4]}' FROM generate_series(1, 1000) AS i`,
		`UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg('00000000-0000-4000-8000-' || lpad(i::text, 12, '0')) FROM generate_series(1, 10000) AS i),
			disabled_user_ids = (SELECT jsonb_agg('10000000-0000-4000-8000-' || lpad(i::text, 12, '0')) FROM generate_series(1, 10000) AS i) WHERE feature_name = 'automation'`,
		`INSERT INTO automation_feedback (key, user_id, rating, message, stage, created_at) SELECT i, 'u' || i, 1 + i % 5, repeat('"', 2000), i % 5, now() FROM generate_series(1, 5000) AS i`,
		`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
			SELECT 'automation', i, 'update', now(), 'x', jsonb_build_object('notice', repeat('<', 4000)), jsonb_build_object('notice', repeat('"', 4000)) FROM generate_series(1, 5000) AS i`,
		`INSERT INTO automation_rollout_minutes (rollout, minute, stage_run, evidence, failing_users)
			SELECT 'automation', now() - i * interval '1 minute', 1, jsonb_build_object('exposed', jsonb_build_object('outcomes', 5000 - i, 'failures', 0), 'control', jsonb_build_object('outcomes', 5000 - i)), 0
			FROM generate_series(1, 4320) AS i ON CONFLICT DO NOTHING`,
		`INSERT INTO automation_provider_failures (provider, user_id, failed_at) SELECT '0x' || i % 10, 'u' || i, now() FROM generate_series(1, 10000) AS i`,
		`VACUUM ANALYZE`, // as autovacuum does later
	} {
		if _, err := h.db.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	version := h.count(`SELECT version FROM feature_flags WHERE feature_name = 'automation'`)
	h.until("the module has read the flag", func() bool { return h.Flags().Explain(automation.FlagName, "u1").Version == int64(version) })
	return h, console.New(h.Module, console.Options{Authorize: func(*http.Request) (console.Operator, error) { return console.Operator{Name: "ann"}, nil }})
}

var largePages = []string{"/", "/switch", "/rollout", "/user?id=u7", "/sessions", "/sessions?state=open", "/sessions?state=failed", "/sessions?user=u7", "/sessions?before=id-9000",
	"/models", "/audit", "/audit?before=2000", "/feedback", "/feedback?open=true&stage=3", "/feedback?before=2000", "/report", "/cleanup"}

// render returns a page.
func render(t testing.TB, pages http.Handler, path string) string {
	t.Helper()
	w := httptest.NewRecorder()
	pages.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, http.NoBody))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: status %d, want 200\n%s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

// maxPageBytes is the maximum size of a page.
const maxPageBytes = 300 << 10

func TestConsole_PagesOfALargeDeploymentStaySmall(t *testing.T) {
	if testing.Short() {
		t.Skip("fills a large database")
	}
	_, pages := largeConsole(t, 20_000)
	for _, path := range largePages {
		if html := render(t, pages, path); len(html) > maxPageBytes {
			t.Errorf("%s has %d bytes, want at most %d", path, len(html), maxPageBytes)
		}
	}
	// The test's own replica may be the 1001st: its first report comes before everything is loaded.
	html := render(t, pages, "/")
	if !strings.Contains(html, "1000 unhealthy") && !strings.Contains(html, "1001 unhealthy") || !strings.Contains(html, "951 more are not listed") {
		t.Error("want the overview to count 1000 or 1001 replicas as unhealthy, and not to list 951 of them")
	}
}

// BenchmarkConsole renders each page of a large deployment. With AUTOMATION_TEST_LONG
// it has a million sessions, which take a minute to insert. "counted" is an overview
// that also counts the users, as the first one in each minute does.
func BenchmarkConsole(b *testing.B) {
	sessions := 20_000
	if os.Getenv("AUTOMATION_TEST_LONG") != "" {
		sessions = 1_000_000
	}
	h, pages := largeConsole(b, sessions)
	measure := func(name, path string, pages func() http.Handler) {
		b.Run(name, func(b *testing.B) {
			size, fastest := 0, time.Hour
			for b.Loop() {
				began := time.Now()
				size = len(render(b, pages(), path))
				fastest = min(fastest, time.Since(began))
			}
			b.ReportMetric(float64(size), "bytes")
			b.ReportMetric(float64(fastest.Microseconds())/1000, "fastest-ms") // least affected by other work on the machine
		})
	}
	for _, path := range largePages {
		measure(path, path, func() http.Handler { return pages })
	}
	measure("counted", "/", func() http.Handler { // a new module has no cached count
		m, err := automation.New(h.cfg, h.db, identifyByKey, automation.Options{})
		if err != nil {
			b.Fatal(err)
		}
		return console.New(m, console.Options{Authorize: func(*http.Request) (console.Operator, error) { return console.Operator{Name: "ann"}, nil }})
	})
}
