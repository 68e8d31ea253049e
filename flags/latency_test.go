package flags_test

import (
	"context"
	"errors"
	"fmt"
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

// replicas are five watchers with a pool each.
func replicas(t *testing.T, driver, dsn string, o flags.Options) []*flags.Watcher {
	t.Helper()
	list := make([]*flags.Watcher, 5)
	for i := range list {
		pool, err := sqlx.Open(driver, dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pool.Close() }) // of connections that a server may have left
		list[i] = refreshed(t, flags.NewWatcher(flags.NewStore(pool, flags.StoreOptions{}), o))
	}
	return list
}

func TestWatcher_SeesAChangeByHandThroughAPooler(t *testing.T) {
	db := postgres(t)
	all := replicas(t, db.DriverName(), pgtest.PgBouncer(t, db.dsn), flags.Options{})
	for i := range 20 {
		user := fmt.Sprint(i)
		db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["`+user+`"]' WHERE feature_name = 'automation'`)
		for n, w := range all {
			if d := refreshed(t, w).Decide("automation", user); !d.On || d.Version != int64(i+2) {
				t.Fatalf("replica %d after change %d: %+v", n, i, d)
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
	// One without a primary: it waits for it for ever, and serves meanwhile.
	cluster.Kill()
	if err := os.WriteFile(filepath.Join(dir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	cluster.Restart()
	pool := pgtest.Open(t, dsn)
	var standby bool
	if err := pool.GetContext(t.Context(), &standby, `SELECT pg_is_in_recovery()`); err != nil || !standby {
		t.Fatalf("no standby: %v", err)
	}
	store := flags.NewStore(pool, flags.StoreOptions{})
	if d := refreshed(t, flags.NewWatcher(store, flags.Options{})).Decide("automation", "1"); !d.On {
		t.Errorf("%+v", d)
	}
	if _, err := store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "x", 0); !errors.Is(err, flags.ErrUnavailable) {
		t.Errorf("a write: %v", err)
	}
}

func TestWatcher_LastSnapshotServesWhileTheServerIsKilledOrFrozen(t *testing.T) {
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
	all := replicas(t, db.DriverName(), dsn, flags.Options{Now: func() time.Time { return now }})
	serves := func(age time.Duration) {
		t.Helper()
		for _, w := range all {
			if h := w.Health(); !w.Decide("automation", "1").On || !h.Loaded || h.Age != age || (h.Err != nil) != (age > 0) {
				t.Errorf("%+v, want age %v", h, age)
			}
		}
	}
	pass := func(timeout time.Duration) (failed int) {
		for _, w := range all {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			if w.Refresh(ctx) != nil {
				failed++
			}
			cancel()
		}
		return failed
	}
	again := func() {
		t.Helper()
		for begun := time.Now(); pass(time.Minute) > 0; {
			if time.Since(begun) > 5*time.Minute {
				t.Fatal("the server is back, and cannot be read")
			}
		}
	}
	serves(0)
	for name, fault := range map[string][2]func(){"killed": {cluster.Kill, cluster.Restart}, "frozen": {cluster.Freeze, cluster.Thaw}} {
		fault[0]()
		for range 3 {
			now = now.Add(time.Minute)
			if n := pass(300 * time.Millisecond); n != len(all) {
				t.Errorf("%s: %d of %d passes fail", name, n, len(all))
			}
		}
		serves(3 * time.Minute)
		fault[1]()
		again()
		serves(0)
	}
}

func TestWatcher_LogsEachMalformedRowOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `DROP TABLE feature_flags`, `CREATE TABLE feature_flags (feature_name text, enabled boolean, enabled_user_ids text, disabled_user_ids text,
			rollout_percentage numeric, seed text, notice text, version integer, updated_at text, updated_by text)`)
		put := func(name, list, percentage string) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), `INSERT INTO feature_flags VALUES ('`+name+`', true, $1, '[]', `+percentage+`, '', '', 1, '2026-11-23 06:00:00.000', 'x')`, list); err != nil {
				t.Fatal(err)
			}
		}
		var ids strings.Builder
		for i := range 10_000 {
			ids.WriteString(strconv.Itoa(i) + ",")
		}
		bad := map[string]string{"NaN": `'NaN'`, "-1": `-1`, "150": `150`, "a little too much": `100.01`, "a little too little": `-0.01`, "NULL": `NULL`}
		for name, percentage := range bad {
			put(name, `["1"]`, percentage)
		}
		put("ten thousand and one that is none", "["+ids.String()+"null]", `0`)
		put("a list that is cut off", `["1",`, `0`)
		put("good", `["1"]`, `0`)
		log, said := logging()
		w := flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{Logger: log})
		for range 3 {
			refreshed(t, w)
		}
		if n := len(w.Health().Bad); n != len(bad)+2 {
			t.Errorf("%d rows are bad, want %d: %v", n, len(bad)+2, w.Health().Bad)
		}
		for name := range bad {
			if d := w.Decide(name, "1"); d.Reason != flags.ReasonMissing {
				t.Errorf("%s: %+v", name, d)
			}
		}
		if d := w.Decide("good", "1"); d.Reason != flags.ReasonUserEnabled {
			t.Errorf("%+v", d)
		}
		if n := said("a flag's row is malformed"); n != len(bad)+2 {
			t.Errorf("said %d times, want %d", n, len(bad)+2)
		}
	})
}
