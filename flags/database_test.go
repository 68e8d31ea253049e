package flags_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// database is a test database with the module's tables.
type database struct {
	*sqlx.DB
	dsn string
}

func postgres(t *testing.T) database {
	t.Helper()
	dsn := schematest.Database(t)
	return migrated(t, database{pgtest.Open(t, dsn), dsn})
}

func sqlite(t *testing.T) database {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "flags.db") + "?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)"
	db, err := sqlx.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return migrated(t, database{db, dsn})
}

func migrated(t *testing.T, db database) database {
	t.Helper()
	schematest.Migrate(t, db.DB)
	return db
}

// onBoth runs a test on PostgreSQL and on SQLite.
func onBoth(t *testing.T, test func(t *testing.T, db database)) {
	t.Helper()
	t.Run("postgres", func(t *testing.T) { test(t, postgres(t)) })
	t.Run("sqlite", func(t *testing.T) { test(t, sqlite(t)) })
}

// sql runs statements directly, as a DBA would.
func (db database) sql(t *testing.T, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// waitForTick waits until the database's clock shows another time. SQLite's clock
// has a resolution of 1 ms.
func (db database) waitForTick(t *testing.T) {
	t.Helper()
	clock := `SELECT CAST(clock_timestamp() AS text)`
	if strings.Contains(db.DriverName(), "sqlite") {
		clock = `SELECT strftime('%f', 'now')`
	}
	read := func() (now string) {
		if err := db.GetContext(t.Context(), &now, clock); err != nil {
			t.Fatal(err)
		}
		return now
	}
	for start, now := read(), ""; now == "" || now == start; {
		now = read()
	}
}

// refreshed refreshes the watcher and returns it.
func refreshed(t *testing.T, w *flags.Watcher) *flags.Watcher {
	t.Helper()
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestMigration_InsertsTheFlagWithoutUsers(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(f.UpdatedAt); since.Abs() > 20*time.Minute {
			t.Errorf("updated_at is %v, want now", f.UpdatedAt)
		}
		f.UpdatedAt = time.Time{}
		if diff := cmp.Diff(&flags.Flag{Name: "automation", Enabled: true, Version: 1, UpdatedBy: "migration"}, f); diff != "" {
			t.Errorf("the flag (-want +got):\n%s", diff)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func TestStore_Update(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		f, err := store.Update(t.Context(), "automation", flags.Change{
			EnabledUserIDs: ptr(flags.NewIDs("1", "ü")), DisabledUserIDs: ptr(flags.NewIDs("9")), Percentage: ptr(flags.Percentage(1)), Seed: ptr("s"), Notice: ptr("back at 5"),
		}, "ops@example.com", 1)
		if err != nil {
			t.Fatal(err)
		}
		f.UpdatedAt = time.Time{}
		want := &flags.Flag{
			Name: "automation", Enabled: true, EnabledUserIDs: flags.NewIDs("1", "ü"), DisabledUserIDs: flags.NewIDs("9"),
			Percentage: 1, Seed: "s", Notice: "back at 5", Version: 2, UpdatedBy: "ops@example.com",
		}
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("after a change of all fields but one (-want +got):\n%s", diff)
		}
		// Nil fields leave their columns; ifVersion 0 matches any version.
		f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "kill switch", 0)
		if err != nil {
			t.Fatal(err)
		}
		f.UpdatedAt = time.Time{}
		want.Enabled, want.Version, want.UpdatedBy = false, 3, "kill switch"
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("after switching the flag off (-want +got):\n%s", diff)
		}
		if f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "again", 3); err != nil || f.Version != 3 {
			t.Errorf("switching off a flag that is off: %+v, %v; want version 3 still", f, err)
		}
		if _, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(true)}, "late", 2); !errors.Is(err, flags.ErrConflict) ||
			!strings.HasSuffix(err.Error(), "it is at version 3, not 2") {
			t.Errorf("Update of an old version returned %v, want ErrConflict", err)
		}
		if _, err = store.Update(t.Context(), "nothing", flags.Change{Enabled: ptr(true)}, "x", 0); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("Update of a flag that does not exist returned %v, want ErrNotFound", err)
		}
		if _, err = store.Get(t.Context(), "nothing"); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("Get of a flag that does not exist returned %v, want ErrNotFound", err)
		}
		// The actor of an Update does not apply to later statements.
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'automation'`)
		if f, err = store.Get(t.Context(), "automation"); err != nil || !strings.HasPrefix(f.UpdatedBy, "sql") {
			t.Errorf("after an UPDATE in SQL: %+v, %v; want updated_by with the prefix sql", f, err)
		}
	})
}

func TestStore_ConcurrentUpdatesOfOneVersionSucceedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		results := make(chan error)
		for range 8 {
			go func() {
				_, err := store.Update(t.Context(), "automation", flags.Change{Percentage: ptr(flags.Percentage(rand.IntN(10_000) + 1))}, "x", 1)
				results <- err
			}()
		}
		succeeded := 0
		for range 8 {
			switch err := <-results; {
			case err == nil:
				succeeded++
			case !errors.Is(err, flags.ErrConflict):
				t.Errorf("Update returned %v, want nil or ErrConflict", err)
			}
		}
		if succeeded != 1 {
			t.Errorf("%d updates of version 1 succeeded, want 1", succeeded)
		}
	})
}

func TestStore_UpdateNamesAConstraintOfTheHost(t *testing.T) {
	db := postgres(t)
	db.sql(t, `ALTER TABLE feature_flags ADD CONSTRAINT at_most_half CHECK (rollout_percentage <= 50)`)
	_, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Percentage: ptr(60 * flags.Percent)}, "x", 0)
	if !errors.Is(err, flags.ErrInvalid) || !strings.Contains(err.Error(), "at_most_half") {
		t.Errorf("Update returned %v, want ErrInvalid with the constraint's name", err)
	}
}

func TestAudit_HasEveryChange(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		for _, p := range []flags.Percentage{10 * flags.Percent, 50 * flags.Percent} {
			if _, err := store.Update(t.Context(), "automation", flags.Change{Percentage: ptr(p)}, "rollout", 0); err != nil {
				t.Fatal(err)
			}
		}
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'automation'`)
		all, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 10, 0)
		if err != nil {
			t.Fatal(err)
		}
		type line struct {
			Version int64
			Action  string
		}
		var got []line
		for _, e := range all {
			got = append(got, line{e.Version, e.Action})
			if e.Flag != "automation" || time.Since(e.At.Time).Abs() > 20*time.Minute || e.By == "" {
				t.Errorf("event %+v; want flag automation, the time now and an actor", e)
			}
		}
		if diff := cmp.Diff([]line{{3, "delete"}, {3, "update"}, {2, "update"}, {1, "insert"}}, got); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		var before, after struct {
			Percentage float64 `json:"rollout_percentage"`
		}
		if err := errors.Join(json.Unmarshal(all[1].Before, &before), json.Unmarshal(all[1].After, &after)); err != nil {
			t.Fatal(err)
		}
		if all[1].By != "rollout" || before.Percentage != 10 || after.Percentage != 50 {
			t.Errorf("event %+v goes from %v to %v; want actor rollout, from 10 to 50", all[1], before, after)
		}
		page, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 2, all[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[1:3], page); diff != "" {
			t.Errorf("the page after the first event (-want +got):\n%s", diff)
		}
		if events, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "nothing", -1, 0); err != nil || len(events) != 0 {
			t.Errorf("events of a flag that never existed: %v, %v; want none", events, err)
		}
	})
}

func TestStore_LoadReadsOnlyWhatChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('b'), ('c')`)
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		load := func(known map[string]flags.RowVersion, want ...string) flags.LoadResult {
			t.Helper()
			l, err := store.Load(t.Context(), known)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range l.Flags {
				got = append(got, f.Name)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("loaded flags (-want +got):\n%s", diff)
			}
			return l
		}
		l := load(nil, "automation", "b", "c")
		if len(l.Versions) != 3 {
			t.Errorf("versions %v, want those of 3 flags", l.Versions)
		}
		l = load(l.Versions)
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'c'`, `DELETE FROM feature_flags WHERE feature_name = 'b'`)
		l = load(l.Versions, "c")
		if _, ok := l.Versions["b"]; ok || len(l.Versions) != 2 {
			t.Errorf("versions %v, want those of automation and c", l.Versions)
		}
		// A new row is read, though it is at version 1 as the deleted one was.
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('b')`)
		l = load(l.Versions, "b")
		db.waitForTick(t)
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'b'`, `INSERT INTO feature_flags (feature_name, enabled) VALUES ('b', true)`)
		load(l.Versions, "b")
	})
}
