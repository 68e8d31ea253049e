package flags_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// explained is a row that automation_explain and automation_flag_add return.
type explained struct {
	Enabled bool
	Reason  string
	Bucket  int
	Version int64
}

func (db database) explain(t *testing.T, query string, args ...any) explained {
	t.Helper()
	var e explained
	if err := db.GetContext(t.Context(), &e, `SELECT * FROM `+query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return e
}

// hint is what the server proposes along with an error.
func hint(t *testing.T, err error) string {
	t.Helper()
	var pq interface{ Get(k byte) string }
	if errors.As(err, &pq) {
		return pq.Get('H')
	}
	return ""
}

func TestTable_RefusalsSayWhatToType(t *testing.T) {
	db := postgres(t)
	if db.DriverName() != "postgres" {
		t.Skip("reads the hint as lib/pq gives it")
	}
	long := `(SELECT jsonb_agg(i) FROM generate_series(1, 10001) AS i)`
	for set, want := range map[string]string{
		`enabled_user_ids = '{"1": true}'`: `SET enabled_user_ids = '[7, "a1"]'`,
		`enabled_user_ids = NULL`:          `an empty one is '[]'`,
		`disabled_user_ids = '[1.5]'`:      `SET disabled_user_ids = '[7, "a1"]'`,
		`enabled_user_ids = ` + long:       `SET rollout_percentage = 10`,
		`rollout_percentage = 101`:         `SET rollout_percentage = 12.5`,
		`rollout_percentage = NULL`:        `SET rollout_percentage = 12.5`,
		`enabled = NULL`:                   `SET enabled = false`,
	} {
		_, err := db.ExecContext(t.Context(), `UPDATE feature_flags SET `+set+` WHERE feature_name = 'automation'`)
		if got := hint(t, err); !sqldb.IsConstraint(err) || !strings.Contains(got, want) || !strings.Contains(got, "automation") && !strings.Contains(got, "'[]'") {
			t.Errorf("SET %s: %v, hint %q; want one with %s", set, err, got, want)
		}
		// What it says to type can be typed.
		if _, statement, ok := strings.Cut(hint(t, err), "UPDATE "); ok {
			statement, _, _ = strings.Cut("UPDATE "+statement, ";")
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
	}
	_, err := db.ExecContext(t.Context(), `SELECT * FROM automation_flag_add('automatic', 7)`)
	if !strings.Contains(hint(t, err), "SELECT feature_name FROM feature_flags") {
		t.Errorf("a flag that is not there: %v, %q", err, hint(t, err))
	}
	list := sqlite(t)
	for set, want := range map[string]string{
		`enabled_user_ids = '7'`:      `SET enabled_user_ids = '[7, "a1"]'`,
		`disabled_user_ids = '[1.5]'`: `type texts in double quotes`,
		`enabled_user_ids = (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) SELECT json_group_array(i) FROM n)`: `SET rollout_percentage = 10`,
	} {
		if _, err := list.ExecContext(t.Context(), `UPDATE feature_flags SET `+set); !sqldb.IsConstraint(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("SQLite, SET %.40s: %v", set, err)
		}
	}
}

func TestTable_ListOfTenThousandIsTheLongest(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		longest := flags.Change{EnabledUserIDs: ptr(ids(flagsql.MaxIDs)), DisabledUserIDs: ptr(ids(flagsql.MaxIDs))}
		f, err := store.Update(t.Context(), "automation", longest, "x", 0)
		for errors.Is(err, flags.ErrUnavailable) { // a busy machine may not write them within the store's deadline
			f, err = store.Update(t.Context(), "automation", longest, "x", 0)
		}
		if err != nil || f.EnabledUserIDs.Len() != flagsql.MaxIDs {
			t.Fatal(err)
		}
		// Switching it off looks at neither list.
		if f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "x", 0); err != nil || f.Enabled || f.EnabledUserIDs.Len() != flagsql.MaxIDs {
			t.Errorf("%v", err)
		}
	})
}

// The lists stay where they are in TOAST: what makes the kill switch fast.
func TestTable_KillSwitchDoesNotStoreTheListsAgain(t *testing.T) {
	db := postgres(t)
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg(gen_random_uuid()) FROM generate_series(1, 10000)), disabled_user_ids = (SELECT jsonb_agg(i) FROM generate_series(1, 10000) AS i)`)
	size := func() (bytes int64) {
		t.Helper()
		if err := db.GetContext(t.Context(), &bytes, `SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'feature_flags'::regclass`); err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	before := size()
	if before < 100_000 {
		t.Fatalf("the lists take %d bytes there: this test shows nothing", before)
	}
	for range 5 {
		db.sql(t, `UPDATE feature_flags SET enabled = false`, `UPDATE feature_flags SET enabled = true, rollout_percentage = rollout_percentage + 1`)
	}
	if after := size(); after != before {
		t.Errorf("the lists were stored again: %d bytes, before %d", after, before)
	}
}

func TestMigration_NamesAListThatIsTooLong(t *testing.T) {
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	db := database{pool, dsn}
	db.sql(t, `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids jsonb)`,
		`INSERT INTO feature_flags SELECT 'beta', true, jsonb_agg(i) FROM generate_series(1, 10001) AS i`)
	_, err := schema.Migrate(t.Context(), pool)
	for _, want := range []string{`the flag "beta" has 10001 ids in enabled_user_ids`, "at most 10000", "rollout_percentage"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = enabled_user_ids - 10000 WHERE feature_name = 'beta'`)
	if _, err := schema.Migrate(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

func TestFlagAdd_TreatsNumbersAndTextsAsOne(t *testing.T) {
	db := postgres(t)
	const uuid = "4f1c6c1e-0d0b-4b8e-9c39-3f8f2f0d9a11"
	list := func(want string) {
		t.Helper()
		var got string
		if err := db.GetContext(t.Context(), &got, `SELECT enabled_user_ids::text FROM feature_flags WHERE feature_name = 'automation'`); err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if diff := cmp.Diff(explained{true, "user_enabled", flags.Bucket("automation", "7"), 2}, db.explain(t, `automation_flag_add('automation', 7)`)); diff != "" {
		t.Error(diff)
	}
	db.explain(t, `automation_flag_add('automation', '7')`)
	db.explain(t, `automation_flag_add('automation', 'a1')`)
	db.explain(t, `automation_flag_add('automation', '`+uuid+`'::uuid)`)
	list(`["7", "a1", "` + uuid + `"]`)
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '[7, "7", 8, "x", 7]' WHERE feature_name = 'automation'`)
	before := db.explain(t, `automation_explain('automation', 9)`).Version
	if e := db.explain(t, `automation_flag_add('automation', 7)`); e.Version != before {
		t.Errorf("who is listed was added again: %+v", e)
	}
	if e := db.explain(t, `automation_flag_remove('automation', '7')`); e.Reason != "outside_percentage" {
		t.Errorf("%+v", e)
	}
	list(`[8, "x"]`)
	db.explain(t, `automation_flag_remove('automation', 8)`)
	db.explain(t, `automation_flag_remove('automation', '`+uuid+`'::uuid)`)
	list(`["x"]`)
	// What holds is returned, also where the addition alone does not decide.
	db.sql(t, `UPDATE feature_flags SET disabled_user_ids = '[5]' WHERE feature_name = 'automation'`)
	if e := db.explain(t, `automation_flag_add('automation', 5)`); e.Enabled || e.Reason != "user_disabled" {
		t.Errorf("%+v", e)
	}
}

func TestBucketAndExplain_TakeIntegersAndUUIDs(t *testing.T) {
	db := postgres(t)
	const uuid = "4f1c6c1e-0d0b-4b8e-9c39-3f8f2f0d9a11"
	db.sql(t, `CREATE TABLE users (id integer, long bigint, short smallint, key uuid, name varchar(20))`, `INSERT INTO users VALUES (7, 7, 7, '`+uuid+`', '7')`,
		`UPDATE feature_flags SET enabled_user_ids = '[7, "`+uuid+`"]' WHERE feature_name = 'automation'`)
	for column, user := range map[string]string{"id": "7", "long": "7", "short": "7", "name": "7", "key": uuid, "'7'": "7", "7": "7"} {
		var got struct {
			Bucket int
			Reason string
		}
		if err := db.GetContext(t.Context(), &got, `SELECT automation_bucket('automation', `+column+`) AS bucket, e.reason FROM users, automation_explain('automation', `+column+`) AS e`); err != nil ||
			got.Bucket != flags.Bucket("automation", user) || got.Reason != "user_enabled" {
			t.Errorf("%s: %+v, %v", column, got, err)
		}
	}
}

func TestAudit_KeepsTheActorOfASecondChange(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		for _, enabled := range []string{"false", "true", "false"} {
			db.sql(t, `UPDATE feature_flags SET enabled = `+enabled+`, updated_by = 'ann' WHERE feature_name = 'automation'`)
		}
		db.sql(t, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'automation'`)
		events, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 4, 0)
		if err != nil || len(events) != 4 {
			t.Fatalf("%d events, %v", len(events), err)
		}
		if by := events[0].By; !strings.HasPrefix(by, "sql") {
			t.Errorf("a change that names nobody is %s's", by)
		}
		for _, e := range events[1:] {
			if e.By != "ann" {
				t.Errorf("version %d is %s's", e.Version, e.By)
			}
		}
	})
}

func TestAudit_FollowsRenames(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('a')`,
			`UPDATE feature_flags SET rollout_percentage = 1 WHERE feature_name = 'a'`,
			`UPDATE feature_flags SET feature_name = 'b' WHERE feature_name = 'a'`,
			`INSERT INTO feature_flags (feature_name, rollout_percentage) VALUES ('a', 50)`, // another of that name
			`UPDATE feature_flags SET rollout_percentage = 2 WHERE feature_name = 'b'`,
			`UPDATE feature_flags SET feature_name = 'c' WHERE feature_name = 'b'`,
			`UPDATE feature_flags SET rollout_percentage = 3 WHERE feature_name = 'c'`)
		all, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "c", 100, 0)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range all {
			got = append(got, fmt.Sprintf("%s %s %d", e.Flag, e.Action, e.Version))
		}
		want := []string{"c update 6", "c update 5", "b update 4", "b update 3", "a update 2", "a insert 1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		page, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "c", 2, all[2].ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[3:5], page); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTable_NoticeOfAnOutageGoesWhenTheFlagIsOnAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		step := func(statement, notice string) {
			t.Helper()
			db.sql(t, `UPDATE feature_flags SET `+statement+` WHERE feature_name = 'automation'`)
			if f, err := store.Get(t.Context(), "automation"); err != nil || f.Notice != notice {
				t.Errorf("SET %s: notice %q, %v; want %q", statement, f.Notice, err, notice)
			}
		}
		step(`notice = 'a beta'`, "a beta")
		step(`enabled = false`, "a beta")
		step(`enabled = true`, "a beta") // it was written before
		step(`enabled = false, notice = 'back at 5'`, "back at 5")
		step(`rollout_percentage = 3`, "back at 5")
		step(`enabled = true`, "")
		step(`enabled = false`, "")
		step(`notice = 'soon'`, "soon") // since it is off
		step(`enabled = true, rollout_percentage = 4`, "")
		step(`enabled = false, notice = 'oops'`, "oops")
		step(`enabled = true, notice = 'we are back'`, "we are back")
		step(`enabled = false, notice = 'again'`, "again")
		if _, err := store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(true)}, "ann", 0); err != nil {
			t.Fatal(err)
		}
		step(`seed = ''`, "")
		events, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 1, 0)
		if err != nil || events[0].By != "ann" || !strings.Contains(string(events[0].Before), "again") {
			t.Errorf("the audit has %+v, %v", events, err)
		}
	})
}

func TestWatcher_SeesThatAFlagIsOffWhateverColumnsThereAre(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s: migrates ten databases")
	}
	for _, column := range []string{"notice", "seed", "updated_by", "updated_at", "version", "rollout_percentage", "enabled_user_ids", "disabled_user_ids"} {
		t.Run(column, func(t *testing.T) {
			db := postgres(t)
			db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`)
			w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
			db.sql(t, `ALTER TABLE feature_flags ADD COLUMN owner text DEFAULT 'us'`, `ALTER TABLE feature_flags DROP COLUMN `+column+` CASCADE`)
			refreshed(t, w)
			if d := w.Decide("automation", "1"); !d.On {
				t.Errorf("a row that lost a column says nothing about the flag: %+v, %+v", d, w.Health())
			}
			db.sql(t, `UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
			refreshed(t, w)
			if d := w.Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
				t.Errorf("%+v", d)
			}
		})
	}
	t.Run("triggers are disabled", func(t *testing.T) {
		db := postgres(t)
		db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		db.sql(t, `ALTER TABLE feature_flags DISABLE TRIGGER ALL`, `UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
		if d := refreshed(t, w).Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
			t.Errorf("%+v", d)
		}
	})
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		db.sql(t, `DROP TRIGGER automation_flag_inserted`, `DROP TRIGGER automation_flag_updated`, `DROP TRIGGER automation_flag_deleted`, `DROP TRIGGER automation_flag_actor`,
			`ALTER TABLE feature_flags DROP COLUMN notice`, `UPDATE feature_flags SET enabled = false`)
		if d := refreshed(t, w).Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
			t.Errorf("%+v", d)
		}
	})
}

func TestStore_SwitchesOffWhateverColumnsThereAre(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s: migrates eight databases")
	}
	for _, column := range []string{"notice", "seed", "updated_by", "updated_at", "version", "rollout_percentage", "enabled_user_ids", "disabled_user_ids"} {
		t.Run(column, func(t *testing.T) {
			db := postgres(t)
			db.sql(t, `ALTER TABLE feature_flags ADD COLUMN owner text DEFAULT 'us'`, `ALTER TABLE feature_flags DROP COLUMN `+column+` CASCADE`)
			f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "ann", 0)
			if err != nil || f.Enabled {
				t.Errorf("%+v, %v", f, err)
			}
			var enabled bool
			if err := db.GetContext(t.Context(), &enabled, `SELECT enabled FROM feature_flags WHERE feature_name = 'automation'`); err != nil || enabled {
				t.Errorf("the row says %t, %v", enabled, err)
			}
		})
	}
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		db.sql(t, `DROP TRIGGER automation_flag_inserted`, `DROP TRIGGER automation_flag_updated`, `DROP TRIGGER automation_flag_deleted`, `DROP TRIGGER automation_flag_actor`,
			`ALTER TABLE feature_flags DROP COLUMN notice`, `ALTER TABLE feature_flags ADD COLUMN owner text`)
		if f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "ann", 0); err != nil || f.Enabled {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

func TestStore_ChangesNothingWithoutAChange(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		before, err := store.Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		after, err := store.Update(t.Context(), "automation", flags.Change{}, "ann", before.Version)
		if err != nil || after.Version != before.Version {
			t.Errorf("%+v, %v", after, err)
		}
	})
}

// BenchmarkKillSwitchOfTheLongestList is the UPDATE alone, as it is typed.
func BenchmarkKillSwitchOfTheLongestList(b *testing.B) {
	dsn := pgtest.Database(b)
	pool := pgtest.Open(b, dsn)
	if _, err := schema.Migrate(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	for _, s := range []string{
		`UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg(gen_random_uuid()) FROM generate_series(1, 10000)), disabled_user_ids = (SELECT jsonb_agg(gen_random_uuid()) FROM generate_series(1, 10000))`,
	} {
		if _, err := pool.ExecContext(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	on := true
	for b.Loop() {
		on = !on
		if _, err := pool.ExecContext(b.Context(), `UPDATE feature_flags SET enabled = $1 WHERE feature_name = 'automation'`, on); err != nil {
			b.Fatal(err)
		}
	}
}
