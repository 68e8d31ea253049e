package flags_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// newReplicas returns five refreshed watchers, each with its own pool.
func newReplicas(t *testing.T, driver, dsn string, o flags.Options) []*flags.Watcher {
	t.Helper()
	list := make([]*flags.Watcher, 5)
	for i := range list {
		pool, err := sqlx.Open(driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pool.Close() }) // fails where the server has closed a connection
		list[i] = refreshed(t, flags.NewWatcher(flags.NewStore(pool, flags.StoreOptions{}), o))
	}
	return list
}

func TestWatcher_SeesChangesThroughPgBouncer(t *testing.T) {
	db := postgres(t)
	replicas := newReplicas(t, db.DriverName(), pgtest.PgBouncer(t, db.dsn), flags.Options{})
	for i := range 20 {
		user := strconv.Itoa(i)
		db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["`+user+`"]' WHERE feature_name = 'automation'`)
		for n, w := range replicas {
			if d := refreshed(t, w).Decide("automation", user); !d.On || d.Version != int64(i+2) {
				t.Fatalf("replica %d after change %d: decision %+v, want on at version %d", n, i, d, i+2)
			}
		}
	}
}

func TestWatcher_ReadsAStandby(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 3 s: starts a cluster twice")
	}
	cluster := pgtest.Start(t, pgtest.Options{})
	dsn := cluster.Database(t)
	db := migrated(t, database{pgtest.Open(t, dsn), dsn})
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["1"]'`, `CHECKPOINT`)
	var dir string
	if err := db.GetContext(t.Context(), &dir, `SHOW data_directory`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// A standby without a primary waits for it and answers queries.
	cluster.Kill()
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cluster.Restart()
	pool := pgtest.Open(t, dsn)
	var isStandby bool
	if err := pool.GetContext(t.Context(), &isStandby, `SELECT pg_is_in_recovery()`); err != nil || !isStandby {
		t.Fatalf("the server is a standby: %t, %v", isStandby, err)
	}
	store := flags.NewStore(pool, flags.StoreOptions{})
	if d := refreshed(t, flags.NewWatcher(store, flags.Options{})).Decide("automation", "1"); !d.On {
		t.Errorf("decision %+v, want on", d)
	}
	if _, err := store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "x", 0); !errors.Is(err, flags.ErrUnavailable) {
		t.Errorf("Update on a standby returned %v, want ErrUnavailable", err)
	}
}

func TestWatcher_KeepsTheLastSnapshotWhileTheServerIsKilledOrFrozen(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 7 s: kills and freezes a server")
	}
	cluster := pgtest.Start(t, pgtest.Options{})
	dsn := cluster.Database(t)
	db := migrated(t, database{pgtest.Open(t, dsn), dsn})
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["1"]'`)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	replicas := newReplicas(t, db.DriverName(), dsn, flags.Options{Now: func() time.Time { return now }})
	check := func(age time.Duration) {
		t.Helper()
		for _, w := range replicas {
			if d := w.Decide("automation", "1"); !d.On {
				t.Errorf("decision %+v, want on", d)
			}
			if h := w.Health(); !h.Loaded || h.Age != age || (h.Err != nil) != (age > 0) {
				t.Errorf("health %+v; want loaded, age %v, an error: %t", h, age, age > 0)
			}
		}
	}
	refreshAll := func(timeout time.Duration) (failed int) {
		for _, w := range replicas {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			if w.Refresh(ctx) != nil {
				failed++
			}
			cancel()
		}
		return failed
	}
	check(0)
	for name, fault := range map[string]struct{ begin, end func() }{
		"killed": {cluster.Kill, cluster.Restart},
		"frozen": {cluster.Freeze, cluster.Thaw},
	} {
		fault.begin()
		for range 3 {
			now = now.Add(time.Minute)
			if n := refreshAll(300 * time.Millisecond); n != len(replicas) {
				t.Errorf("server %s: %d of %d passes fail, want all", name, n, len(replicas))
			}
		}
		check(3 * time.Minute)
		fault.end()
		for start := time.Now(); refreshAll(time.Minute) > 0; {
			if time.Since(start) > 5*time.Minute {
				t.Fatalf("server %s: 5 min after the end of the fault, passes still fail", name)
			}
		}
		check(0)
	}
}

func TestWatcher_LogsEachMalformedRowOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `DROP TABLE feature_flags`, `CREATE TABLE feature_flags (feature_name text, enabled boolean, enabled_user_ids text, disabled_user_ids text,
			rollout_percentage numeric, seed text, notice text, version integer, updated_at text, updated_by text)`)
		insert := func(name, list, percentage string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), `INSERT INTO feature_flags VALUES ('`+name+`', true, $1, '[]', `+percentage+`, '', '', 1, '2026-11-23 06:00:00.000', 'x')`, list); err != nil {
				t.Fatal(err)
			}
		}
		var ids strings.Builder
		for i := range 10_000 {
			ids.WriteString(strconv.Itoa(i) + ",")
		}
		badPercentages := map[string]string{"NaN": `'NaN'`, "-1": `-1`, "150": `150`, "slightly too high": `100.01`, "slightly too low": `-0.01`, "NULL": `NULL`}
		for name, percentage := range badPercentages {
			insert(name, `["1"]`, percentage)
		}
		insert("a null after ten thousand ids", "["+ids.String()+"null]", `0`)
		insert("a truncated list", `["1",`, `0`)
		insert("good", `["1"]`, `0`)
		want := len(badPercentages) + 2
		logger, count := newLogger()
		w := flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{Logger: logger})
		for range 3 {
			refreshed(t, w)
		}
		if bad := w.Health().Bad; len(bad) != want {
			t.Errorf("%d rows are bad, want %d: %v", len(bad), want, bad)
		}
		for name := range badPercentages {
			if d := w.Decide(name, "1"); d.Reason != flags.ReasonMissing {
				t.Errorf("flag %q: decision %+v, want ReasonMissing", name, d)
			}
		}
		if d := w.Decide("good", "1"); d.Reason != flags.ReasonUserEnabled {
			t.Errorf("flag good: decision %+v, want ReasonUserEnabled", d)
		}
		if n := count("a flag's row is malformed"); n != want {
			t.Errorf("malformed rows were logged %d times, want %d", n, want)
		}
	})
}
