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

// database is one with the module's tables.
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

// sql runs statements as a DBA would, without the module.
func (db database) sql(t *testing.T, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// tick returns when the database's clock has moved on; SQLite's has milliseconds.
func (db database) tick(t *testing.T) {
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
	for begun, now := read(), ""; now == "" || now == begun; {
		now = read()
	}
}

func refreshed(t *testing.T, w *flags.Watcher) *flags.Watcher {
	t.Helper()
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestMigration_InsertsTheFlagWithNobodyIn(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(f.UpdatedAt); since.Abs() > 20*time.Minute {
			t.Errorf("it was changed at %v", f.UpdatedAt)
		}
		f.UpdatedAt = time.Time{}
		if diff := cmp.Diff(&flags.Flag{Name: "automation", Enabled: true, Version: 1, UpdatedBy: "migration"}, f); diff != "" {
			t.Error(diff)
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
			t.Error(diff)
		}
		// What is not given stays; version 0 is any.
		f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "kill switch", 0)
		if err != nil {
			t.Fatal(err)
		}
		f.UpdatedAt = time.Time{}
		want.Enabled, want.Version, want.UpdatedBy = false, 3, "kill switch"
		if diff := cmp.Diff(want, f); diff != "" {
			t.Error(diff)
		}
		// Nothing changed, nothing counted.
		if f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "again", 3); err != nil || f.Version != 3 {
			t.Errorf("the same once more: %+v, %v", f, err)
		}
		if _, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(true)}, "late", 2); !errors.Is(err, flags.ErrConflict) ||
			!strings.HasSuffix(err.Error(), "it is at version 3, not 2") {
			t.Errorf("an old version: %v", err)
		}
		if _, err = store.Update(t.Context(), "nothing", flags.Change{Enabled: ptr(true)}, "x", 0); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("a flag that is not there: %v", err)
		}
		if _, err = store.Get(t.Context(), "nothing"); !errors.Is(err, flags.ErrNotFound) {
			t.Errorf("a flag that is not there: %v", err)
		}
		// Who acted is forgotten with the transaction.
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'automation'`)
		if f, err = store.Get(t.Context(), "automation"); err != nil || !strings.HasPrefix(f.UpdatedBy, "sql") {
			t.Errorf("by hand: %+v, %v", f, err)
		}
	})
}

func TestStore_UpdateOfOneVersionSucceedsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		results := make(chan error)
		for range 8 {
			go func() {
				_, err := store.Update(t.Context(), "automation", flags.Change{Percentage: ptr(flags.Percentage(rand.IntN(10_000) + 1))}, "x", 1)
				results <- err
			}()
		}
		won := 0
		for range 8 {
			switch err := <-results; {
			case err == nil:
				won++
			case !errors.Is(err, flags.ErrConflict):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d updates won", won)
		}
	})
}

func TestStore_UpdateNamesTheHostsConstraint(t *testing.T) {
	db := postgres(t)
	db.sql(t, `ALTER TABLE feature_flags ADD CONSTRAINT at_most_half CHECK (rollout_percentage <= 50)`)
	_, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Percentage: ptr(60 * flags.Percent)}, "x", 0)
	if !errors.Is(err, flags.ErrInvalid) || !strings.Contains(err.Error(), "at_most_half") {
		t.Error(err)
	}
}

func TestStore_EventsReturnsTheAudit(t *testing.T) {
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
				t.Errorf("%+v", e)
			}
		}
		if diff := cmp.Diff([]line{{3, "delete"}, {3, "update"}, {2, "update"}, {1, "insert"}}, got); diff != "" {
			t.Fatal(diff)
		}
		var before, after struct {
			Percentage float64 `json:"rollout_percentage"`
		}
		if err := errors.Join(json.Unmarshal(all[1].Before, &before), json.Unmarshal(all[1].After, &after)); err != nil {
			t.Fatal(err)
		}
		if all[1].By != "rollout" || before.Percentage != 10 || after.Percentage != 50 {
			t.Errorf("%+v: from %v to %v", all[1], before, after)
		}
		page, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 2, all[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[1:3], page); diff != "" {
			t.Error(diff)
		}
		if none, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "nothing", -1, 0); err != nil || len(none) != 0 {
			t.Errorf("%v, %v", none, err)
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
				t.Error(diff)
			}
			return l
		}
		l := load(nil, "automation", "b", "c")
		if len(l.Versions) != 3 {
			t.Errorf("versions %v", l.Versions)
		}
		l = load(l.Versions)
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'c'`, `DELETE FROM feature_flags WHERE feature_name = 'b'`)
		l = load(l.Versions, "c")
		if _, ok := l.Versions["b"]; ok || len(l.Versions) != 2 {
			t.Errorf("versions %v", l.Versions)
		}
		// At version 1 again, and still another.
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('b')`)
		l = load(l.Versions, "b")
		db.tick(t)
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'b'`, `INSERT INTO feature_flags (feature_name, enabled) VALUES ('b', true)`)
		load(l.Versions, "b")
	})
}
