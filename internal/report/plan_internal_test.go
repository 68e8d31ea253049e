package report

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// With a month of sessions, the report of a week reads only those of the week and of
// the two days before. On PostgreSQL it reads only the index.
func TestMake_ReadsTheReviewedSpanAlone(t *testing.T) {
	type backend struct {
		open    func(*testing.T) *sqlx.DB
		rows    int
		explain string
		scan    string // in the plan of a query that reads all sessions
		only    string // pattern of the plan of a query that reads only the index's part
	}
	for name, b := range map[string]backend{
		"postgres": {func(t *testing.T) *sqlx.DB { t.Helper(); return pgtest.Open(t, schematest.Database(t)) }, 10_000, `EXPLAIN `, "Seq Scan on automation_sessions", "Index Only Scan using automation_sessions_sums"},
		"sqlite": {func(t *testing.T) *sqlx.DB {
			t.Helper()
			pool, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_pragma=synchronous(OFF)")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = pool.Close() })
			return pool
		}, 2_000, `EXPLAIN QUERY PLAN `, "SCAN automation_sessions", "SEARCH automation_sessions USING .*created_at>"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := b.open(t)
			schematest.Migrate(t, pool)
			db := sqldb.New(pool, sqldb.Options{})
			for _, s := range []string{
				fmt.Sprintf(`CREATE TABLE numbers AS WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i, -2592000.0 * i / %[1]d AS at FROM s`, b.rows),
				`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, last_error, created_at, ends_at, next_at, closed_at, last_used_at)
					SELECT 's' || i, '0x' || i, 'm', 'u' || (i % 1000), 'u' || (i % 1000), {in at}, 3600, CASE WHEN i % 50 = 0 THEN 'failed' ELSE 'closed' END,
						'an error of some length, because a row is wider than an entry of an index', {in at}, {in at}, {in at}, {in at}, {in at} FROM numbers`,
				`ANALYZE`,
			} {
				if _, err := pool.ExecContext(t.Context(), db.Expand(s)); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
			if pool.DriverName() != "sqlite" { // VACUUM allows index-only scans
				if _, err := pool.ExecContext(t.Context(), `VACUUM ANALYZE automation_sessions`); err != nil {
					t.Fatal(err)
				}
			}
			now := time.Now()
			for _, q := range []struct {
				query, plan string
				span        time.Duration
			}{
				{sessionsQuery, b.only, maxSummed},
				{activeQuery, b.only, week},
				{adoptersQuery, b.only, week},
			} {
				text := explain(t, pool, b.explain+db.Expand(q.query), seconds(now.Add(-q.span)), seconds(now))
				if !regexp.MustCompile(q.plan).MatchString(text) || strings.Contains(text, b.scan) {
					t.Errorf("the plan does not match %q, or has %q:\n%s\n%s", q.plan, b.scan, q.query, text)
				}
			}
		})
	}
}

// explain returns the last column of each row of a plan.
func explain(t *testing.T, pool *sqlx.DB, query string, args ...any) string {
	t.Helper()
	rows, err := pool.QueryxContext(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		line, err := rows.SliceScan()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&plan, line[len(line)-1])
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}
