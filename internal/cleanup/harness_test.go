package cleanup_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func migrated(tb testing.TB, pool *sqlx.DB) *sqlx.DB {
	tb.Helper()
	schematest.Migrate(tb, pool)
	return pool
}

func newCleaner(tb testing.TB, pool *sqlx.DB, o cleanup.Options) *cleanup.Cleaner {
	tb.Helper()
	if o.Pause == 0 {
		o.Pause = time.Microsecond
	}
	c, err := cleanup.New(sqldb.New(pool, sqldb.Options{}), o)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// mustPass makes a pass that must succeed.
func mustPass(tb testing.TB, c *cleanup.Cleaner, dryRun bool) cleanup.Report {
	tb.Helper()
	r, err := c.Pass(tb.Context(), dryRun)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// counts returns the rows of each kind of a report, in its order.
func counts(r cleanup.Report) []int64 {
	list := make([]int64, len(r.Removed))
	for i, c := range r.Removed {
		list[i] = c.Rows
	}
	return list
}

// execute executes statements, which may contain sqldb's macros.
func execute(tb testing.TB, pool *sqlx.DB, statements ...string) {
	tb.Helper()
	db := sqldb.New(pool, sqldb.Options{Timeout: 5 * time.Minute})
	for _, s := range statements {
		if _, err := sqldb.Write(tb.Context(), db, "test", func(tx *sqldb.Tx) (int64, error) { return tx.Exec(s) }); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

func selectStrings(tb testing.TB, pool *sqlx.DB, query string) []string {
	tb.Helper()
	list := []string{}
	if err := pool.SelectContext(tb.Context(), &list, query); err != nil {
		tb.Fatal(err)
	}
	return list
}

func selectInt(tb testing.TB, pool *sqlx.DB, query string) (n int) {
	tb.Helper()
	if err := pool.GetContext(tb.Context(), &n, query); err != nil {
		tb.Fatal(err)
	}
	return n
}

// ago returns SQL for the time that many hours ago.
func ago(hours float64) string { return fmt.Sprintf("{in %.3f}", -3600*hours) }

// series returns a FROM item with the numbers 1 to n as i.
func series(pool *sqlx.DB, n int) string {
	if pool.DriverName() == "sqlite" {
		return fmt.Sprintf(`(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < %d) SELECT i FROM s) AS numbers`, n)
	}
	return fmt.Sprintf(`generate_series(1, %d) AS i`, n)
}

const day = 24

// setting inserts one user's settings. A deletedHours of 0 means not deleted.
func setting(user string, enabled bool, duration int, updatedHours, deletedHours float64) string {
	deleted := "NULL"
	if deletedHours > 0 {
		deleted = ago(deletedHours)
	}
	return fmt.Sprintf(`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
		VALUES ('%s', %t, %d, %s, %s, %s)`, user, enabled, duration, ago(updatedHours), ago(updatedHours), deleted)
}

// session inserts a session that was opened and closed that many hours ago; 0 means never.
func session(id, user, state string, opened, closed float64) string {
	at := func(hours float64) string {
		if hours == 0 {
			return "NULL"
		}
		return ago(hours)
	}
	chainID, ends := "NULL", "NULL"
	if state == "open" || state == "ending" || state == "closed" {
		chainID, ends = "'0x"+id+"'", ago(opened-1)
	}
	return fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, called_at, opened_at, ends_at, closed_at, next_at)
		VALUES ('%s', %s, 'm', '%s', '%s', %s, 3600, '%s', %s, %s, %s, %s, %s, %s)`,
		id, chainID, user, user, at(opened), state, at(opened), at(opened), at(opened), ends, at(closed), at(opened))
}

// fill inserts 3n rows that a pass deletes, n in each of three tables, and n/10 of each
// kind that it must keep.
func fill(tb testing.TB, pool *sqlx.DB, n int) {
	tb.Helper()
	numbers := func(n int) string { return series(pool, n) }
	execute(tb, pool,
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
			SELECT 'deleted-' || i, i % 2 = 0, 3600, `+ago(100*day)+`, {in -8640000.0 + i}, {in -8640000.0 + i} FROM `+numbers(n),
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at)
			SELECT 'out-' || i, FALSE, 3600, `+ago(100*day)+`, {in -8640000.0 + i} FROM `+numbers(n/10),
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at)
			SELECT 'in-' || i, TRUE, 3600, `+ago(100*day)+`, {in -8640000.0 + i} FROM `+numbers(n/10),
		`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, called_at, opened_at, ends_at, closed_at, next_at)
			SELECT 'closed-' || i, '0xc' || i, 'm', 'u' || (i % 1000), 'u' || (i % 1000), {in -8650000.0 + i}, 3600, 'closed',
				{in -8650000.0 + i}, {in -8650000.0 + i}, {in -8650000.0 + i}, {in -8646400.0 + i}, {in -8640000.0 + i}, {in -8640000.0 + i} FROM `+numbers(n),
		`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, called_at, opened_at, ends_at, next_at)
			SELECT 'open-' || i, '0xo' || i, 'm', 'u' || (i % 1000), 'u' || (i % 1000), {in -60.0}, 3600, 'open',
				{in -60.0}, {in -60.0}, {in -60.0}, {in 3540.0}, {in 3600.0} FROM `+numbers(n/10),
		`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
			SELECT 'automation', i, 'update', {in -40000000.0 + i}, 'test', '{}', '{}' FROM `+numbers(n))
}

// checkRemaining checks that a clean-up after fill has deleted and kept the right rows.
func checkRemaining(tb testing.TB, pool *sqlx.DB, n int) {
	tb.Helper()
	for query, want := range map[string]int{
		`SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'out-%' AND NOT is_enabled AND deleted_at IS NULL`: n / 10,
		`SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'in-%'`:                                            n / 10,
		`SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'deleted-%'`:                                       0,
		`SELECT count(*) FROM automation_sessions WHERE state = 'open'`:                                                      n / 10,
		`SELECT count(*) FROM automation_sessions WHERE state = 'closed'`:                                                    0,
		`SELECT count(*) FROM feature_flag_events WHERE changed_by = 'test'`:                                                 0,
		`SELECT count(*) FROM feature_flag_events WHERE changed_by <> 'test'`:                                                1,
	} {
		if got := selectInt(tb, pool, query); got != want {
			tb.Errorf("%s: %d rows, want %d", query, got, want)
		}
	}
}
