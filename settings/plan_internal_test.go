package settings

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const primaryKey = "user_automation_settings_pkey"

// statements are the statements of requests and polls, and the index that each
// must use.
var statements = []struct {
	name, statement string
	args            []any
	index           string
}{
	{"get", get, []any{"7"}, primaryKey},
	{"update", update, []any{"7", true, 3600, 1}, primaryKey},
	{"remove", remove, []any{"7", false, 1}, primaryKey},
	{"is stored", isStored, []any{"7"}, primaryKey},
	{"changed", changed, []any{-(pollInterval + commitLag).Seconds(), maxChanges + 1}, "user_automation_settings_by_change"},
}

func TestStatements_UseAnIndex(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		open                         func(*testing.T) *sqlx.DB
		fill, analyze, explain, scan string
	}{
		"postgres": {
			func(t *testing.T) *sqlx.DB { return pgtest.Open(t, schematest.Database(t)) },
			`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
			SELECT i, i % 10 = 0, 3600, now() - interval '1 year', now() - make_interval(secs => i * 0.001), CASE WHEN i % 100 = 1 THEN now() END FROM generate_series(1, 200000) AS i`, // 1,000 changes a second
			`VACUUM ANALYZE user_automation_settings`, `EXPLAIN `, "Seq Scan",
		},
		"sqlite": {
			func(t *testing.T) *sqlx.DB {
				pool, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db"))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = pool.Close() })
				return pool
			},
			`WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 20000)
			INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
			SELECT value, value % 10 = 0, 3600, '2025-01-01 00:00:00.000', strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || value || ' minutes'), iif(value % 100 = 1, '2026-01-01 00:00:00.000', NULL) FROM n`,
			`ANALYZE`, `EXPLAIN QUERY PLAN `, "SCAN user_automation_settings\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := test.open(t)
			schematest.Migrate(t, pool)
			for _, s := range []string{test.fill, test.analyze} {
				if _, err := pool.ExecContext(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			db := sqldb.New(pool, sqldb.Options{})
			for _, p := range statements {
				plan := explain(t, pool, test.explain+db.Expand(p.statement), p.args...)
				index := p.index
				if index == primaryKey && name == "sqlite" {
					index = "sqlite_autoindex_user_automation_settings_1"
				}
				if !strings.Contains(plan, index) {
					t.Errorf("%s does not use %s:\n%s", p.name, index, plan)
				}
				if strings.Contains(plan, test.scan) {
					t.Errorf("%s reads the whole table:\n%s", p.name, plan)
				}
			}
		})
	}
}

// explain returns a plan: the last column of each row on a line.
func explain(t *testing.T, pool *sqlx.DB, query string, args ...any) string {
	t.Helper()
	rows, err := pool.QueryxContext(t.Context(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		columns, err := rows.SliceScan()
		if err != nil {
			t.Fatal(err)
		}
		switch line := columns[len(columns)-1].(type) {
		case string:
			plan.WriteString(line + "\n")
		case []byte:
			plan.WriteString(string(line) + "\n")
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
