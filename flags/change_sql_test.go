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

// explanation is the row that automation_explain, automation_flag_add and
// automation_flag_remove return.
type explanation struct {
	Enabled bool
	Reason  string
	Bucket  int
	Version int64
}

// call calls one of these SQL functions.
func (db database) call(t *testing.T, function string) explanation {
	t.Helper()
	var e explanation
	if err := db.GetContext(t.Context(), &e, `SELECT * FROM `+function); err != nil {
		t.Fatalf("%s: %v", function, err)
	}
	return e
}

// hintOf returns the HINT of an error of PostgreSQL.
func hintOf(err error) string {
	var pq interface{ Get(k byte) string }
	if errors.As(err, &pq) {
		return pq.Get('H')
	}
	return ""
}

func TestTable_ErrorsSayWhatToType(t *testing.T) {
	db := postgres(t)
	if db.DriverName() != "postgres" {
		t.Skip("reads the hint from lib/pq's error")
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
		hint := hintOf(err)
		if !sqldb.IsConstraint(err) || !strings.Contains(hint, want) {
			t.Errorf("SET %s: error %v, hint %q; want a hint with %s", set, err, hint, want)
		}
		if !strings.Contains(hint, "automation") && !strings.Contains(hint, "'[]'") {
			t.Errorf("SET %s: the hint %q names neither the flag nor '[]'", set, hint)
		}
		// The statement in the hint works.
		if _, statement, ok := strings.Cut(hint, "UPDATE "); ok {
			statement, _, _ = strings.Cut("UPDATE "+statement, ";")
			if _, err := db.ExecContext(t.Context(), statement); err != nil {
				t.Errorf("the hint's statement %s fails: %v", statement, err)
			}
		}
	}
	_, err := db.ExecContext(t.Context(), `SELECT * FROM automation_flag_add('automatic', 7)`)
	if !strings.Contains(hintOf(err), "SELECT feature_name FROM feature_flags") {
		t.Errorf("adding to a flag that does not exist: error %v, hint %q; want a hint with SELECT feature_name", err, hintOf(err))
	}
	lite := sqlite(t)
	for set, want := range map[string]string{
		`enabled_user_ids = '7'`:      `SET enabled_user_ids = '[7, "a1"]'`,
		`disabled_user_ids = '[1.5]'`: `type texts in double quotes`,
		`enabled_user_ids = (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001) SELECT json_group_array(i) FROM n)`: `SET rollout_percentage = 10`,
	} {
		if _, err := lite.ExecContext(t.Context(), `UPDATE feature_flags SET `+set); !sqldb.IsConstraint(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("SQLite, SET %.40s: error %v, want one with %s", set, err, want)
		}
	}
}

func TestTable_AcceptsListsOfTenThousandIDs(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		longest := flags.Change{EnabledUserIDs: ptr(ids(flagsql.MaxIDs)), DisabledUserIDs: ptr(ids(flagsql.MaxIDs))}
		f, err := store.Update(t.Context(), "automation", longest, "x", 0)
		for errors.Is(err, flags.ErrUnavailable) { // a busy machine may not write them within the store's deadline
			f, err = store.Update(t.Context(), "automation", longest, "x", 0)
		}
		if err != nil || f.EnabledUserIDs.Len() != flagsql.MaxIDs {
			t.Fatalf("writing two lists of %d ids: %v", flagsql.MaxIDs, err)
		}
		if f, err = store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "x", 0); err != nil || f.Enabled || f.EnabledUserIDs.Len() != flagsql.MaxIDs {
			t.Errorf("switching the flag off: %v", err)
		}
	})
}

// The kill switch is fast because PostgreSQL does not write the lists, which it
// keeps in the TOAST table, again.
func TestTable_KillSwitchDoesNotRewriteTheLists(t *testing.T) {
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
		t.Fatalf("the TOAST table has %d bytes, so it does not hold the lists", before)
	}
	for range 5 {
		db.sql(t, `UPDATE feature_flags SET enabled = false`, `UPDATE feature_flags SET enabled = true, rollout_percentage = rollout_percentage + 1`)
	}
	if after := size(); after != before {
		t.Errorf("the TOAST table grew from %d to %d bytes: the lists were written again", before, after)
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
			t.Errorf("migrating a list of 10,001 ids: error %v, want one with %q", err, want)
		}
	}
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = enabled_user_ids - 10000 WHERE feature_name = 'beta'`)
	if _, err := schema.Migrate(t.Context(), pool); err != nil {
		t.Errorf("migrating a list of 10,000 ids: %v", err)
	}
}

func TestFlagAdd_TreatsNumbersAndTextsAsTheSameUser(t *testing.T) {
	db := postgres(t)
	const uuid = "4f1c6c1e-0d0b-4b8e-9c39-3f8f2f0d9a11"
	checkList := func(want string) {
		t.Helper()
		var got string
		if err := db.GetContext(t.Context(), &got, `SELECT enabled_user_ids::text FROM feature_flags WHERE feature_name = 'automation'`); err != nil || got != want {
			t.Errorf("enabled_user_ids is %s, %v; want %s", got, err, want)
		}
	}
	if diff := cmp.Diff(explanation{true, "user_enabled", flags.Bucket("automation", "7"), 2}, db.call(t, `automation_flag_add('automation', 7)`)); diff != "" {
		t.Errorf("adding user 7 (-want +got):\n%s", diff)
	}
	db.call(t, `automation_flag_add('automation', '7')`)
	db.call(t, `automation_flag_add('automation', 'a1')`)
	db.call(t, `automation_flag_add('automation', '`+uuid+`'::uuid)`)
	checkList(`["7", "a1", "` + uuid + `"]`)
	db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '[7, "7", 8, "x", 7]' WHERE feature_name = 'automation'`)
	before := db.call(t, `automation_explain('automation', 9)`).Version
	if e := db.call(t, `automation_flag_add('automation', 7)`); e.Version != before {
		t.Errorf("adding a listed user: %+v, want version %d as before", e, before)
	}
	if e := db.call(t, `automation_flag_remove('automation', '7')`); e.Reason != "outside_percentage" {
		t.Errorf("removing user 7: %+v, want outside_percentage", e)
	}
	checkList(`[8, "x"]`)
	db.call(t, `automation_flag_remove('automation', 8)`)
	db.call(t, `automation_flag_remove('automation', '`+uuid+`'::uuid)`)
	checkList(`["x"]`)
	// The result is the decision, which another rule may make.
	db.sql(t, `UPDATE feature_flags SET disabled_user_ids = '[5]' WHERE feature_name = 'automation'`)
	if e := db.call(t, `automation_flag_add('automation', 5)`); e.Enabled || e.Reason != "user_disabled" {
		t.Errorf("adding a disabled user: %+v, want user_disabled", e)
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
			t.Errorf("user %s: %+v, %v; want bucket %d and user_enabled", column, got, err, flags.Bucket("automation", user))
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
			t.Errorf("the actor of a change that names none is %q, want the prefix sql", by)
		}
		for _, e := range events[1:] {
			if e.By != "ann" {
				t.Errorf("the actor of version %d is %q, want ann", e.Version, e.By)
			}
		}
	})
}

func TestAudit_FollowsRenames(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES ('a')`,
			`UPDATE feature_flags SET rollout_percentage = 1 WHERE feature_name = 'a'`,
			`UPDATE feature_flags SET feature_name = 'b' WHERE feature_name = 'a'`,
			`INSERT INTO feature_flags (feature_name, rollout_percentage) VALUES ('a', 50)`, // another flag
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
			t.Errorf("events of c (-want +got):\n%s", diff)
		}
		page, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "c", 2, all[2].ID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(all[3:5], page); diff != "" {
			t.Errorf("the page after the third event (-want +got):\n%s", diff)
		}
	})
}

func TestTable_RemovesTheNoticeOfAnOutageWhenTheFlagIsOnAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		step := func(set, notice string) {
			t.Helper()
			db.sql(t, `UPDATE feature_flags SET `+set+` WHERE feature_name = 'automation'`)
			if f, err := store.Get(t.Context(), "automation"); err != nil || f.Notice != notice {
				t.Errorf("after SET %s the flag is %+v, %v; want notice %q", set, f, err, notice)
			}
		}
		step(`notice = 'a beta'`, "a beta")
		step(`enabled = false`, "a beta")
		step(`enabled = true`, "a beta") // set before the outage
		step(`enabled = false, notice = 'back at 5'`, "back at 5")
		step(`rollout_percentage = 3`, "back at 5")
		step(`enabled = true`, "")
		step(`enabled = false`, "")
		step(`notice = 'soon'`, "soon") // set during the outage
		step(`enabled = true, rollout_percentage = 4`, "")
		step(`enabled = false, notice = 'oops'`, "oops")
		step(`enabled = true, notice = 'we are back'`, "we are back")
		step(`enabled = false, notice = 'again'`, "again")
		if _, err := store.Update(t.Context(), "automation", flags.Change{Enabled: ptr(true)}, "ann", 0); err != nil {
			t.Fatal(err)
		}
		step(`seed = ''`, "") // the same value: no event
		events, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 1, 0)
		if err != nil || len(events) != 1 || events[0].By != "ann" || !strings.Contains(string(events[0].Before), "again") {
			t.Errorf("the last event is %+v, %v; want one by ann that removes the notice \"again\"", events, err)
		}
	})
}

func TestWatcher_SeesThatAFlagIsOffWhateverColumnIsMissing(t *testing.T) {
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
				t.Errorf("without the column: decision %+v, health %+v; want on, as before", d, w.Health())
			}
			db.sql(t, `UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
			refreshed(t, w)
			if d := w.Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
				t.Errorf("the flag is switched off: decision %+v, want ReasonDisabled", d)
			}
		})
	}
	t.Run("triggers are disabled", func(t *testing.T) {
		db := postgres(t)
		db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100 WHERE feature_name = 'automation'`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		db.sql(t, `ALTER TABLE feature_flags DISABLE TRIGGER ALL`, `UPDATE feature_flags SET enabled = false WHERE feature_name = 'automation'`)
		if d := refreshed(t, w).Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
			t.Errorf("the flag is switched off: decision %+v, want ReasonDisabled", d)
		}
	})
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		db.sql(t, `UPDATE feature_flags SET rollout_percentage = 100`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		db.sql(t, `DROP TRIGGER automation_flag_inserted`, `DROP TRIGGER automation_flag_updated`, `DROP TRIGGER automation_flag_deleted`, `DROP TRIGGER automation_flag_actor`,
			`ALTER TABLE feature_flags DROP COLUMN notice`, `UPDATE feature_flags SET enabled = false`)
		if d := refreshed(t, w).Decide("automation", "1"); d.Reason != flags.ReasonDisabled {
			t.Errorf("the flag is switched off: decision %+v, want ReasonDisabled", d)
		}
	})
}

func TestStore_SwitchesAFlagOffWhateverColumnIsMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s: migrates eight databases")
	}
	for _, column := range []string{"notice", "seed", "updated_by", "updated_at", "version", "rollout_percentage", "enabled_user_ids", "disabled_user_ids"} {
		t.Run(column, func(t *testing.T) {
			db := postgres(t)
			db.sql(t, `ALTER TABLE feature_flags ADD COLUMN owner text DEFAULT 'us'`, `ALTER TABLE feature_flags DROP COLUMN `+column+` CASCADE`)
			f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "ann", 0)
			if err != nil || f.Enabled {
				t.Errorf("Update returned %+v, %v; want a flag that is not enabled", f, err)
			}
			var enabled bool
			if err := db.GetContext(t.Context(), &enabled, `SELECT enabled FROM feature_flags WHERE feature_name = 'automation'`); err != nil || enabled {
				t.Errorf("the row has enabled = %t, %v; want false", enabled, err)
			}
		})
	}
	t.Run("sqlite", func(t *testing.T) {
		db := sqlite(t)
		db.sql(t, `DROP TRIGGER automation_flag_inserted`, `DROP TRIGGER automation_flag_updated`, `DROP TRIGGER automation_flag_deleted`, `DROP TRIGGER automation_flag_actor`,
			`ALTER TABLE feature_flags DROP COLUMN notice`, `ALTER TABLE feature_flags ADD COLUMN owner text`)
		if f, err := flags.NewStore(db.DB, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Enabled: ptr(false)}, "ann", 0); err != nil || f.Enabled {
			t.Errorf("Update returned %+v, %v; want a flag that is not enabled", f, err)
		}
	})
}

func TestStore_EmptyUpdateKeepsTheVersion(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		before, err := store.Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		after, err := store.Update(t.Context(), "automation", flags.Change{}, "ann", before.Version)
		if err != nil || after.Version != before.Version {
			t.Errorf("Update returned %+v, %v; want version %d", after, err, before.Version)
		}
	})
}

// BenchmarkKillSwitchOfTheLongestList is the UPDATE that switches a flag with the
// longest lists on and off.
func BenchmarkKillSwitchOfTheLongestList(b *testing.B) {
	dsn := pgtest.Database(b)
	pool := pgtest.Open(b, dsn)
	if _, err := schema.Migrate(b.Context(), pool); err != nil {
		b.Fatal(err)
	}
	if _, err := pool.ExecContext(b.Context(), `UPDATE feature_flags SET enabled_user_ids = (SELECT jsonb_agg(gen_random_uuid()) FROM generate_series(1, 10000)),
		disabled_user_ids = (SELECT jsonb_agg(gen_random_uuid()) FROM generate_series(1, 10000))`); err != nil {
		b.Fatal(err)
	}
	on := true
	for b.Loop() {
		on = !on
		if _, err := pool.ExecContext(b.Context(), `UPDATE feature_flags SET enabled = $1 WHERE feature_name = 'automation'`, on); err != nil {
			b.Fatal(err)
		}
	}
}
