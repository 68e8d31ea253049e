package flags_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/pglab"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// database is one with the module's tables.
type database struct {
	*sqlx.DB
	dsn string
}

func postgres(t *testing.T) database {
	t.Helper()
	dsn := pglab.Database(t)
	return migrated(t, database{pglab.Open(t, dsn), dsn})
}

func sqlite(t *testing.T) database {
	t.Helper()
	dsn := "file:" + filepath.Join(t.TempDir(), "flags.db") + "?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)"
	db, err := sqlx.Open("sqlite", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return migrated(t, database{db, dsn})
}

func migrated(t *testing.T, db database) database {
	t.Helper()
	if _, err := schema.Migrate(t.Context(), db.DB); err != nil {
		t.Fatal(err)
	}
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

func TestANewDatabaseHasTheFlagWithNobodyIn(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		f, err := flags.NewStore(db.DB).Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(f.UpdatedAt); since < -time.Minute || since > time.Minute {
			t.Errorf("it was changed at %v", f.UpdatedAt)
		}
		f.UpdatedAt = time.Time{}
		if diff := cmp.Diff(&flags.Flag{Name: "automation", Enabled: true, Version: 1, UpdatedBy: "migration"}, f); diff != "" {
			t.Error(diff)
		}
	})
}

// The deployment plan's statements, as they are typed.
func TestThePlansStatements(t *testing.T) {
	steps := []struct {
		statement string
		on, off   []string // users
	}{
		{`UPDATE feature_flags SET enabled_user_ids = '[1, 2, 3]' WHERE feature_name = 'automation';`, []string{"1", "2", "3"}, []string{"0", "4"}},
		{`UPDATE feature_flags SET enabled_user_ids = '["1", "2", "x"]' WHERE feature_name = 'automation';`, []string{"1", "2", "x"}, []string{"0", "3"}},
		// 0 has bucket 277; 1, 2, 3 and 4 are beyond 999 but on the list or not.
		{`UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation';`, []string{"0", "1", "2", "x"}, []string{"3"}},
		{`UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation';`, nil, []string{"0", "1", "2", "x", "3"}},
	}
	check := func(t *testing.T, w *flags.Watcher, on, off []string, version int64) {
		t.Helper()
		refreshed(t, w)
		for _, user := range on {
			if d := w.Decide("automation", user); !d.On || d.Version != version {
				t.Errorf("user %s: %+v, want on at version %d", user, d, version)
			}
		}
		for _, user := range off {
			if d := w.Decide("automation", user); d.On || d.Version != version {
				t.Errorf("user %s: %+v, want off at version %d", user, d, version)
			}
		}
	}
	onBoth(t, func(t *testing.T, db database) {
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB), flags.Options{}))
		for i, s := range steps {
			db.sql(t, s.statement)
			check(t, w, s.on, s.off, int64(i+2))
		}
	})
	t.Run("psql", func(t *testing.T) {
		psql, err := exec.LookPath("psql")
		if err != nil {
			t.Skip("psql is not on PATH")
		}
		db := postgres(t)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB), flags.Options{}))
		for i, s := range steps {
			out, err := exec.CommandContext(t.Context(), psql, "-X", "-v", "ON_ERROR_STOP=1", "-c", s.statement, db.dsn).CombinedOutput()
			if err != nil || strings.TrimSpace(string(out)) != "UPDATE 1" {
				t.Fatalf("%s: %v, %s", s.statement, err, out)
			}
			check(t, w, s.on, s.off, int64(i+2))
		}
	})
}

func TestTheDatabaseRefusesWhatIsMalformed(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB)
		before, err := store.Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		for _, set := range []string{
			`enabled_user_ids = '1,2,3'`, `enabled_user_ids = '{"1": true}'`, `enabled_user_ids = '7'`, `enabled_user_ids = 'null'`, `enabled_user_ids = NULL`,
			`enabled_user_ids = '[[1]]'`, `enabled_user_ids = '[{}]'`, `enabled_user_ids = '[null]'`, `enabled_user_ids = '[true]'`,
			`enabled_user_ids = '[1.5]'`, `enabled_user_ids = '[""]'`, `enabled_user_ids = '[1,'`,
			`disabled_user_ids = '{}'`, `disabled_user_ids = '[1.5]'`, `disabled_user_ids = NULL`,
			`rollout_percentage = -1`, `rollout_percentage = 150`, `rollout_percentage = 100.01`, `rollout_percentage = 'NaN'`, `rollout_percentage = 'abc'`, `rollout_percentage = NULL`,
			`enabled = NULL`, `enabled = 'perhaps'`, `feature_name = ''`,
		} {
			if _, err := db.ExecContext(t.Context(), `UPDATE feature_flags SET `+set+` WHERE feature_name = 'automation'`); err == nil {
				t.Errorf("UPDATE feature_flags SET %s was not refused", set)
			}
		}
		after, err := store.Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Error(diff)
		}
	})
}

func ptr[T any](v T) *T { return &v }

func TestUpdate(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB)
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

func TestUpdateInIsPartOfItsTransaction(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		bounded := sqldb.New(db.DB, sqldb.Options{})
		store := flags.NewStoreOn(bounded)
		twice := func(second flags.Change) error {
			_, err := sqldb.Write(t.Context(), bounded, "test", func(tx *sqldb.Tx) (*flags.Flag, error) {
				f, err := flags.UpdateIn(tx, "automation", flags.Change{Percentage: ptr(flags.Percentage(7))}, "first", 0)
				if err != nil {
					return nil, err
				}
				return flags.UpdateIn(tx, "automation", second, "second", f.Version)
			})
			return err
		}
		if err := twice(flags.Change{Percentage: ptr(flags.Percentage(-1))}); !errors.Is(err, flags.ErrInvalid) {
			t.Error(err)
		}
		if f, err := store.Get(t.Context(), "automation"); err != nil || f.Version != 1 {
			t.Errorf("half a transaction: %+v, %v", f, err)
		}
		if err := twice(flags.Change{Seed: ptr("x")}); err != nil {
			t.Fatal(err)
		}
		events, err := store.Events(t.Context(), "automation", 2, 0)
		if err != nil || len(events) != 2 || events[0].By != "second" || events[1].By != "first" {
			t.Errorf("%+v, %v", events, err)
		}
	})
}

func TestOfConcurrentUpdatesOfOneVersionOneWins(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB)
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

func TestAConstraintOfTheHostsOwnIsAClearError(t *testing.T) {
	db := postgres(t)
	db.sql(t, `ALTER TABLE feature_flags ADD CONSTRAINT at_most_half CHECK (rollout_percentage <= 50)`)
	_, err := flags.NewStore(db.DB).Update(t.Context(), "automation", flags.Change{Percentage: ptr(60 * flags.Percent)}, "x", 0)
	if !errors.Is(err, flags.ErrInvalid) || !strings.Contains(err.Error(), "at_most_half") {
		t.Error(err)
	}
}

func TestEventsAreTheAudit(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB)
		for _, p := range []flags.Percentage{10 * flags.Percent, 50 * flags.Percent} {
			if _, err := store.Update(t.Context(), "automation", flags.Change{Percentage: ptr(p)}, "rollout", 0); err != nil {
				t.Fatal(err)
			}
		}
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'automation'`)
		all, err := store.Events(t.Context(), "automation", 10, 0)
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
			if e.Flag != "automation" || time.Since(e.At).Abs() > time.Minute || e.By == "" {
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
		page, err := store.Events(t.Context(), "automation", 2, all[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[1:3], page); diff != "" {
			t.Error(diff)
		}
		if none, err := store.Events(t.Context(), "nothing", -1, 0); err != nil || len(none) != 0 {
			t.Errorf("%v, %v", none, err)
		}
	})
}

func TestLoadReadsOnlyWhatChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('b'), ('c')`)
		store := flags.NewStore(db.DB)
		load := func(known map[string]flags.Stamp, want ...string) flags.Loaded {
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
		if len(l.Stamps) != 3 {
			t.Errorf("stamps %v", l.Stamps)
		}
		l = load(l.Stamps)
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'c'`, `DELETE FROM feature_flags WHERE feature_name = 'b'`)
		l = load(l.Stamps, "c")
		if _, ok := l.Stamps["b"]; ok || len(l.Stamps) != 2 {
			t.Errorf("stamps %v", l.Stamps)
		}
		// At version 1 again, and still another.
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('b')`)
		l = load(l.Stamps, "b")
		db.tick(t)
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'b'`, `INSERT INTO feature_flags (feature_name, enabled) VALUES ('b', true)`)
		load(l.Stamps, "b")
	})
}

// Without the constraints, as in a table that was restored carelessly.
func TestAMalformedRowHarmsOnlyItself(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `DROP TABLE feature_flags`, `CREATE TABLE feature_flags (feature_name text, enabled boolean, enabled_user_ids text, disabled_user_ids text,
			rollout_percentage text, seed text, notice text, version integer, updated_at text, updated_by text)`)
		insert := func(name, values string) {
			t.Helper()
			db.sql(t, `DELETE FROM feature_flags WHERE feature_name = '`+name+`'`, `INSERT INTO feature_flags VALUES ('`+name+`', `+values+`)`)
		}
		const good = `true, '[1]', '[]', '0', '', '', 1, '2026-11-23 06:00:00.000', 'x'`
		insert("good", good)
		insert("turns bad", good)
		insert("turns bad, but off", good)
		insert("never good", `NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL`)
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES (NULL)`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB), flags.Options{}))
		check := func(name string, want flags.Reason) {
			t.Helper()
			if d := w.Decide(name, "1"); d.Reason != want {
				t.Errorf("%s: %v, want %v", name, d.Reason, want)
			}
		}
		check("good", flags.UserEnabled)
		check("turns bad", flags.UserEnabled)
		check("turns bad, but off", flags.UserEnabled)
		check("never good", flags.Missing)

		insert("turns bad", `true, '[1.5]', '[]', '101', '', '', 2, '2026-11-23 06:00:00.000', 'x'`)
		insert("turns bad, but off", `false, '[1', '[]', '0', '', '', 2, '2026-11-23 06:00:00.000', 'x'`)
		refreshed(t, w)
		check("good", flags.UserEnabled)
		check("turns bad", flags.UserEnabled)
		check("turns bad, but off", flags.Disabled)
		var got []string
		for _, bad := range w.Health().Bad {
			got = append(got, bad.Error())
		}
		if diff := cmp.Diff([]string{
			`flags: the row of "never good" in feature_flags cannot be read; mend it: enabled: true or false is wanted, not NULL
enabled_user_ids: a text is wanted, not NULL
disabled_user_ids: a text is wanted, not NULL
rollout_percentage: a number is wanted, not NULL
seed: a text is wanted, not NULL
notice: a text is wanted, not NULL
version: a whole number is wanted, not NULL
updated_at: a time is wanted, not NULL
updated_by: a text is wanted, not NULL`,
			`flags: the row of "turns bad" in feature_flags cannot be read; mend it: enabled_user_ids: element 1: a whole number is wanted, without fraction or exponent
rollout_percentage: 101 is not within 0 and 100`,
			`flags: the row of "turns bad, but off" in feature_flags cannot be read; mend it: enabled_user_ids: after element 1: a comma or the list's end is wanted, not the end`,
		}, got); diff != "" {
			t.Error(diff)
		}
		if _, err := flags.NewStore(db.DB).Get(t.Context(), "turns bad, but off"); err == nil {
			t.Error("Get returns a flag that cannot be read")
		}

		// Mended, all is well.
		insert("turns bad", `true, '[2]', '[]', '0', '', '', 3, '2026-11-23 06:00:00.000', 'x'`)
		insert("turns bad, but off", good)
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'never good'`)
		refreshed(t, w)
		check("turns bad", flags.OutsidePercentage)
		check("turns bad, but off", flags.UserEnabled)
		if h := w.Health(); len(h.Bad) != 0 {
			t.Errorf("still bad: %v", h.Bad)
		}
	})
}

func TestWithoutTheTableOrTheDatabaseTheLastSnapshotServes(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["1"]'`)
		now := time.Unix(0, 0)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB), flags.Options{Now: func() time.Time { return now }}))
		serves := func(age time.Duration, err bool) {
			t.Helper()
			if d := w.Decide("automation", "1"); !d.On {
				t.Errorf("%+v", d)
			}
			if h := w.Health(); !h.Loaded || h.Age != age || (h.Err != nil) != err {
				t.Errorf("%+v, want age %v", h, age)
			}
		}
		serves(0, false)
		now = now.Add(time.Minute)
		db.sql(t, `ALTER TABLE feature_flags RENAME TO hidden`)
		if err := w.Refresh(t.Context()); err == nil {
			t.Error("a table that is not there can be read")
		}
		serves(time.Minute, true)
		db.sql(t, `ALTER TABLE hidden RENAME TO feature_flags`)
		refreshed(t, w)
		serves(0, false)

		now = now.Add(time.Hour)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Refresh(t.Context()); !errors.Is(err, flags.ErrUnavailable) {
			t.Errorf("a closed database: %v", err)
		}
		serves(time.Hour, true)
		if _, err := flags.NewStore(db.DB).Events(t.Context(), "automation", 1, 0); !errors.Is(err, flags.ErrUnavailable) {
			t.Errorf("a closed database: %v", err)
		}
	})
}

func TestACancelledCallChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Update(ctx, "automation", flags.Change{Enabled: ptr(false)}, "x", 0); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if f, err := store.Get(t.Context(), "automation"); err != nil || !f.Enabled {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

func TestAMillionIDs(t *testing.T) {
	db := postgres(t)
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg(i) FROM generate_series(1, 1000000) AS i)`)
	w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB), flags.Options{}))
	if n := w.Flag("automation").EnabledUserIDs.Len(); n != 1_000_000 {
		t.Errorf("%d ids", n)
	}
	for user, want := range map[string]bool{"1": true, "1000000": true, "0": false, "1000001": false} {
		if d := w.Decide("automation", user); d.On != want {
			t.Errorf("user %s: %+v", user, d)
		}
	}
}

func TestGoAndSQLAgree(t *testing.T) {
	db := postgres(t)
	list := vectors(t)
	r := rand.New(rand.NewPCG(3, 4))
	ranges := [][2]rune{{' ', '~'}, {0xa0, 0x17f}, {0x400, 0x4ff}, {0x5d0, 0x5ea}, {0x4e00, 0x9fff}, {0x1f300, 0x1faff}, {0x10fff0, 0x10ffff}}
	text := func() string {
		var s strings.Builder
		for range r.IntN(40) {
			c := ranges[r.IntN(len(ranges))]
			s.WriteRune(c[0] + rune(r.IntN(int(c[1]-c[0]+1))))
		}
		return s.String()
	}
	for range 5000 {
		v := vector{Seed: text(), User: text()}
		v.Bucket = flags.Bucket(v.Seed, v.User)
		list = append(list, v)
	}
	input, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var got []struct {
		Seed string `db:"seed"`
		User string `db:"user_id"`
		Go   int    `db:"bucket"`
		SQL  int    `db:"in_sql"`
	}
	if err := db.SelectContext(t.Context(), &got, `SELECT v.seed, v."user" AS user_id, v.bucket, automation_bucket(v.seed, v."user") AS in_sql
		FROM jsonb_to_recordset(CAST($1 AS jsonb)) AS v(seed text, "user" text, bucket integer)`, string(input)); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(list) {
		t.Fatalf("%d rows, want %d", len(got), len(list))
	}
	for _, g := range got {
		if g.Go != g.SQL || flags.Explain(&flags.Flag{Name: "x", Seed: g.Seed}, g.User, true).Bucket != flags.Bucket(orX(g.Seed), g.User) {
			t.Errorf("bucket of %q, %q: %d in Go, %d in SQL", g.Seed, g.User, g.Go, g.SQL)
		}
	}
}

func orX(seed string) string {
	if seed == "" {
		return "x"
	}
	return seed
}
