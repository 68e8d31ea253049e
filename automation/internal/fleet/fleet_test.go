package fleet

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func noOptIns(context.Context) (on, off int64, err error) { return 0, 0, nil }

// onBoth runs a test on both databases. exec expands the macros of sqldb.
func onBoth(t *testing.T, test func(t *testing.T, s *Store, exec func(statements ...string))) {
	t.Helper()
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		s := NewStore(pool, nil, noOptIns, time.Now)
		test(t, s, func(statements ...string) {
			t.Helper()
			for _, statement := range statements {
				if _, err := pool.ExecContext(t.Context(), s.db.Expand(statement)); err != nil {
					t.Fatalf("%s: %v", statement, err)
				}
			}
		})
	})
}

// insertSession returns the INSERT of a session whose intent was written ago
// seconds ago.
func insertSession(id, user, purpose, state, reason, lastError string, ago int) string {
	return fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, duration, state, reason, last_error, provider, purpose, created_at, ends_at, next_at)
		VALUES ('%[1]s', '0x%[1]s', 'm', '%[2]s', '%[2]s', 3600, '%[3]s', '%[4]s', '%[5]s', 'p', '%[6]s', {in -%[7]d}, {now}, {now})`, id, user, state, reason, lastError, purpose, ago)
}

func TestStore_FiguresCountOpensByPurpose(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, exec func(...string)) {
		exec(insertSession("a", "ann", "request", "open", "", "", 60), insertSession("b", "ann", "request", "closed", "ended", "", 2400),
			insertSession("c", "bob", "request", "failed", "refused", "", 60), insertSession("d", "bob", "request", "failed", "not_needed", "", 60),
			insertSession("e", "", "prewarm", "unknown", "", "", 1000), insertSession("f", "bob", "replacement", "lost", "", "", 2400),
			insertSession("g", "bob", "request", "open", "", "", 4000), insertSession("h", "bob", "request", "failed", "not_asked", "", 60),
			`UPDATE automation_jobs SET finished_at = {in -7200} WHERE name = 'cleanup'`,
			`UPDATE feature_flags SET notice = 'one' WHERE feature_name = 'automation'`, `UPDATE feature_flags SET notice = 'two' WHERE feature_name = 'automation'`)
		got, err := s.Figures(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		want := Figures{Opens: []Opens{
			{Purpose: "prewarm", Pending: 1},
			{Purpose: "replacement", Failed: 1},
			{Purpose: "request", Opened: 2, Failed: 1, RecentOpened: 1, RecentFailed: 1},
		}, FlagChanges: 3, Orphans: 1} // the migration's own insert is a change
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Figures{}, "CleanedAt")); diff != "" {
			t.Errorf("figures (-want +got):\n%s", diff)
		}
		if age := time.Since(got.CleanedAt); age < 100*time.Minute || age > 140*time.Minute {
			t.Errorf("the last clean-up was %v ago, want about 2h", age)
		}
	})
}

func TestStore_FailuresAreTheUsersOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, exec func(...string)) {
		exec(insertSession("a", "ann", "request", "failed", "refused", "no provider", 300), insertSession("b", "ann", "request", "open", "", "", 10),
			insertSession("c", "ann", "request", "ending", "expired", "", 200), insertSession("d", "bob", "request", "failed", "refused", "", 60),
			insertSession("e", "ann", "request", "failed", "not_needed", "", 60), insertSession("f", "", "prewarm", "failed", "refused", "", 60),
			`INSERT INTO automation_provider_failures (provider, user_id, failed_at) VALUES ('p1', 'ann', {in -100}), ('p1', 'bob', {in -50})`,
			`INSERT INTO automation_user_failures (user_id, cause, code, began_at, failed_at, requests) VALUES ('ann', 'database', 'session_unavailable', {in -90}, {in -20}, 7),
				('ann', 'limit', 'session_budget_exceeded', {in -150}, {in -150}, 1), ('bob', 'node', 'session_unavailable', {in -90}, {in -20}, 7)`)
		list, err := s.Failures(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range list {
			got = append(got, strings.TrimSpace(f.Cause+" "+f.ModelID+" "+f.Provider+" "+f.Detail))
			if f.Requests > 0 {
				got[len(got)-1] += fmt.Sprintf(" %d in %.0f s", f.Requests, f.At.Sub(f.Since).Seconds())
			}
		}
		if diff := cmp.Diff([]string{"database   session_unavailable 7 in 70 s", "provider  p1", "limit   session_budget_exceeded 1 in 0 s", "session m p expired", "open_failed m p refused: no provider"}, got); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
		if none, err := s.Failures(t.Context(), ""); err != nil || none == nil || len(none) != 0 {
			t.Errorf("without a user: %#v, error %v; want an empty list", none, err)
		}
		for range 2 {
			if err := s.EraseUser(t.Context(), "ann"); err != nil {
				t.Fatal(err)
			}
		}
		if list, err = s.Failures(t.Context(), "ann"); err != nil || len(list) != 3 || list[0].Requests != 0 {
			t.Errorf("after ann was erased: %+v, error %v; want 3 failures and no errors that ann got", list, err)
		}
		if list, err = s.Failures(t.Context(), "bob"); err != nil || len(list) != 3 || list[0].Requests != 7 {
			t.Errorf("bob, who was not erased: %+v, error %v; want 3 failures, the first of 7 requests", list, err)
		}
	})
}

func TestStore_FiguresCountOnlyChangesOfTheFlag(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		audit := flagsql.NewAudit(pool, sqldb.Options{})
		if err := audit.Record(t.Context(), "automation", flagsql.ActionEndSession, "admin:ann", map[string]any{"session_id": "0x1"}); err != nil {
			t.Fatal(err)
		}
		if f, err := NewStore(pool, nil, noOptIns, time.Now).Figures(t.Context(), "automation"); err != nil || f.FlagChanges != 1 {
			t.Errorf("%d changes of the flag, error %v; want 1, the migration's insert", f.FlagChanges, err)
		}
	})
}

func TestStore_CachesCountsForAMinute(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store, exec func(...string)) {
		exec(insertSession("a", "ann", "request", "open", "", "", 60), insertSession("b", "ann", "request", "closed", "", "", 600),
			insertSession("c", "bob", "request", "open", "", "", 700_000), insertSession("d", "", "prewarm", "open", "", "", 60))
		at, calls, fails := time.Now(), int64(0), false
		s.now = func() time.Time { return at }
		s.optIns = func(context.Context) (on, off int64, err error) {
			calls++
			if fails {
				return 0, 0, errors.New("the database is away")
			}
			return 10 * calls, calls, nil
		}
		read := func() Counts {
			t.Helper()
			c, err := s.Counts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		first := Counts{At: at, OptedIn: 10, OptedOut: 1, ActiveWeek: 1}
		if diff := cmp.Diff(first, read()); diff != "" {
			t.Errorf("the first counts (-want +got):\n%s", diff)
		}
		at = at.Add(59 * time.Second)
		if diff := cmp.Diff(first, read()); diff != "" {
			t.Errorf("after 59s (-want +got):\n%s", diff)
		}
		at = at.Add(time.Second)
		s.counting.Lock() // as another caller that reads them
		if diff := cmp.Diff(first, read()); diff != "" {
			t.Errorf("after 60s, while another caller reads them (-want +got):\n%s", diff)
		}
		s.counting.Unlock()
		if c := read(); c.OptedIn != 20 || !c.At.Equal(at) {
			t.Errorf("after 60s: %+v, want new counts", c)
		}
		at, fails = at.Add(time.Minute), true
		if _, err := s.Counts(t.Context()); err == nil {
			t.Error("Counts returned no error though counting failed")
		}
	})
}

// No query scans a table, even with many sessions.
func TestStore_IsServedByIndexes(t *testing.T) {
	pool := pgtest.Open(t, schematest.Database(t))
	for _, s := range []string{
		`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, ends_at, next_at)
		SELECT i, 'x' || i, 'm', i % 1000, i % 1000, t, 3600, CASE WHEN i % 5000 = 0 THEN 'failed' WHEN i % 4000 = 0 THEN 'unknown' ELSE 'closed' END, t, t, t
		FROM generate_series(1, 30000) AS i, LATERAL (SELECT now() - make_interval(mins => i) AS t) AS x`,
		`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
		SELECT 'automation', i, 'update', now() - make_interval(mins => i), 'x', '{}', '{}' FROM generate_series(1, 30000) AS i`,
		`INSERT INTO automation_provider_failures (provider, user_id, failed_at) SELECT i % 10, i, now() FROM generate_series(1, 10000) AS i`,
		`VACUUM ANALYZE automation_sessions`, `VACUUM ANALYZE feature_flag_events`, `VACUUM ANALYZE automation_provider_failures`,
	} {
		if _, err := pool.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	s := NewStore(pool, nil, noOptIns, time.Now)
	for _, query := range []struct {
		name, text, index string
		args              []any
	}{
		{"opens", opensQuery, "automation_sessions_(created|sums)", nil},
		{"flag changes", flagChangesQuery, "feature_flag_events_by_", []any{"automation"}},
		{"orphans", orphansQuery, "automation_sessions_", nil},
		{"active users", activeQuery, "Index Only Scan using automation_sessions_sums", nil},
		{"broken", brokenQuery, "automation_sessions_budget", []any{"7", 20}},
		{"providers", providerQuery, "automation_provider_failures_user", []any{"7", 20}},
	} {
		var plan []string
		if err := pool.SelectContext(t.Context(), &plan, `EXPLAIN `+s.db.Expand(query.text), query.args...); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(plan, "\n")
		if strings.Contains(text, "Seq Scan") || !regexp.MustCompile(query.index).MatchString(text) {
			t.Errorf("%s: want the index %s and no Seq Scan; plan:\n%s", query.name, query.index, text)
		}
	}
}
