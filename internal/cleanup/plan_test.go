package cleanup

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// fixture is the worst case of each kind: a large table of which almost no rows may be
// deleted.
var fixture = []string{
	`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
		SELECT 'u' || i, i % 2 = 0, 3600, {in -9e6}, {in -9e6}, CASE WHEN i % 10 = 1 THEN {in -100.0 * i} END FROM numbers`,
	`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, called_at, opened_at, ends_at, closed_at, next_at)
		SELECT 's' || i, '0x' || i, 'm', 'u' || (i % 1000), 'u' || (i % 1000), {in -100.0 * i}, 3600, CASE WHEN i % 100 = 1 THEN 'open' ELSE 'closed' END,
			{in -100.0 * i}, {in -100.0 * i}, {in -100.0 * i}, {in -100.0 * i}, {in -100.0 * i}, {in -100.0 * i} FROM numbers`,
	`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
		SELECT 'automation', i, 'update', {in -1000.0 * i}, 'test', '{}', '{}' FROM numbers`,
	`INSERT INTO automation_rollout_events (rollout, seq, epoch, stage, bake, stage_name, percentage, action, from_state, to_state, actor, detail, evidence, at)
		SELECT 'r', i, 1, 1, i, 's', 10, 'a', 's', 's', 't', '', '{}', {in -1000.0 * i} FROM numbers`,
	`INSERT INTO automation_feedback (key, user_id, message, created_at, done_at)
		SELECT 'k' || i, 'u', 'm', {in -1000.0 * i}, CASE WHEN i % 2 = 0 THEN {in -1.0} END FROM numbers`,
	`INSERT INTO automation_replicas (id, host, version, started_at, seen_at, feature_enabled, flag_version, flag_age, requests, failures, node_failures)
		SELECT 'r' || i, 'h', 'v', {in -1000.0 * i}, {in -1000.0 * i}, TRUE, 1, 0, 0, 0, 0 FROM numbers`,
	`INSERT INTO automation_rollout_failures (rollout, stage_run, kind, user_hash, minute)
		SELECT 'r', 1, 'failure', 'h' || i, {in -1000.0 * i} FROM numbers`,
	`INSERT INTO automation_rollout_minutes (rollout, minute, stage_run, evidence, failing_users)
		SELECT 'r', {in -1000.0 * i}, 1, '{}', 0 FROM numbers`,
	`INSERT INTO automation_activity (period, kind, cause, evidence, requests, slow, db_slow, latency_us, db_us)
		SELECT {in -1000.0 * i}, 'chat', 'none', 'success', 1, 0, 0, 0, 0 FROM numbers`,
	`INSERT INTO automation_user_failures (user_id, cause, code, began_at, failed_at, requests)
		SELECT 'u' || i, 'node', '', {in -1000.0 * i}, {in -1000.0 * i}, 1 FROM numbers`,
	`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at)
		SELECT 'r', 'r', i, '', {in -1000.0 * i}, {in -1000.0 * i} FROM numbers`,
}

// wholeTable is the only table that a batch may read without an index; see kinds.
const wholeTable = "automation_rollout_counts"

// numbers creates a table with the numbers 1 to %d.
const numbers = `CREATE TABLE numbers AS WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i FROM s`

func TestPass_UsesAnIndexForEveryBatch(t *testing.T) {
	type plan struct {
		query string
		args  []any
		index string
	}
	o, err := Options{DefaultOptIn: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	plans := func(sqlite bool) []plan {
		list := []plan{
			{uncertainOpenAge, nil, "automation_sessions_(due|fingerprint|by_state)"},
			{`SELECT s.user_id FROM ` + optedIn + ` ORDER BY s.user_id LIMIT $2`, []any{"u2", 500}, "user_automation_settings_adopters"},
			{deleteUnusedQuery(sqlite), []any{"u2", "u25", o.Retention.Seconds(), 3600}, "automation_sessions_budget"},
		}
		for i, k := range kinds(o) {
			index := []string{"user_automation_settings_deleted", "automation_sessions_ended", "feature_flag_events_by_time",
				"automation_rollout_events_by_time", wholeTable, "automation_rollout_failures_by_minute", "automation_rollout_minutes_by_time", "automation_rollout_outbox_by_time", "automation_feedback_by_time", "automation_feedback_by_time",
				"automation_activity_(pkey|1)", "automation_user_failures_by_time", "automation_replicas_by_time"}[i]
			list = append(list, plan{k.deleteQuery(sqlite), []any{k.retention.Seconds(), o.Batch, "0001-01-01"}, index})
		}
		return list
	}
	for name, db := range map[string]struct {
		open    func(*testing.T) *sqlx.DB
		rows    int
		explain string
		scans   []string
	}{
		"postgres": {func(t *testing.T) *sqlx.DB { return pgtest.Open(t, schematest.Database(t)) }, 30_000, `EXPLAIN `, []string{"Seq Scan", "Sort"}},
		"sqlite": {func(t *testing.T) *sqlx.DB {
			pool, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pool.Close() })
			return pool
		}, 2_000, `EXPLAIN QUERY PLAN `, []string{"SCAN user_automation_settings\n", "SCAN automation_sessions\n", "SCAN s\n", "SCAN used\n", "SCAN feature_flag_events\n", "TEMP B-TREE"}},
	} {
		t.Run(name, func(t *testing.T) {
			pool := db.open(t)
			schematest.Migrate(t, pool)
			macros := sqldb.New(pool, sqldb.Options{})
			for _, s := range append(append([]string{fmt.Sprintf(numbers, db.rows)}, fixture...), `ANALYZE`) {
				if _, err := pool.ExecContext(t.Context(), macros.Expand(s)); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
			for _, p := range plans(macros.SQLite()) {
				text := explain(t, pool, db.explain+macros.Expand(p.query), p.args)
				if !regexp.MustCompile(p.index).MatchString(text) {
					t.Errorf("%s\ndoes not use %s:\n%s", p.query, p.index, text)
				}
				for _, scan := range db.scans {
					if strings.Contains(text, scan) && p.index != wholeTable {
						t.Errorf("%s\nreads a whole table or sorts:\n%s", p.query, text)
					}
				}
			}
		})
	}
}

func explain(t *testing.T, pool *sqlx.DB, query string, args []any) string {
	t.Helper()
	rows, err := pool.QueryxContext(t.Context(), query, args...) //nolint:sqlclosecheck // closed below
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		cells, err := rows.SliceScan()
		if err != nil {
			t.Fatal(err)
		}
		switch last := cells[len(cells)-1].(type) {
		case string:
			b.WriteString(last + "\n")
		case []byte:
			b.Write(append(last, '\n'))
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
