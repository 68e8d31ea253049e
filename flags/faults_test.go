package flags_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestTable_RejectsMalformedValues(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
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
				t.Errorf("UPDATE feature_flags SET %s succeeds, want an error", set)
			}
		}
		after, err := store.Get(t.Context(), "automation")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the rejected statements changed the flag (-before +after):\n%s", diff)
		}
	})
}

// The table has no constraints, as after a careless restore.
func TestWatcher_MalformedRowAffectsOnlyItsFlag(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `DROP TABLE feature_flags`, `CREATE TABLE feature_flags (feature_name text, enabled boolean, enabled_user_ids text, disabled_user_ids text,
			rollout_percentage text, seed text, notice text, version integer, updated_at text, updated_by text)`)
		replace := func(name, values string) {
			t.Helper()
			db.sql(t, `DELETE FROM feature_flags WHERE feature_name = '`+name+`'`, `INSERT INTO feature_flags VALUES ('`+name+`', `+values+`)`)
		}
		const good = `true, '[1]', '[]', '0', '', '', 1, '2026-11-23 06:00:00.000', 'x'`
		replace("good", good)
		replace("turns bad", good)
		replace("turns bad, but off", good)
		replace("never good", `NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL`)
		db.sql(t, `INSERT INTO feature_flags (feature_name) VALUES (NULL)`)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{}))
		check := func(name string, want flags.Reason) {
			t.Helper()
			if d := w.Decide(name, "1"); d.Reason != want {
				t.Errorf("flag %q: reason %v, want %v", name, d.Reason, want)
			}
		}
		check("good", flags.ReasonUserEnabled)
		check("turns bad", flags.ReasonUserEnabled)
		check("turns bad, but off", flags.ReasonUserEnabled)
		check("never good", flags.ReasonMissing)

		replace("turns bad", `true, '[1.5]', '[]', '101', '', '', 2, '2026-11-23 06:00:00.000', 'x'`)
		replace("turns bad, but off", `false, '[1', '[]', '0', '', '', 2, '2026-11-23 06:00:00.000', 'x'`)
		refreshed(t, w)
		check("good", flags.ReasonUserEnabled)
		check("turns bad", flags.ReasonUserEnabled)
		check("turns bad, but off", flags.ReasonDisabled)
		var got []string
		for _, bad := range w.Health().Bad {
			got = append(got, bad.Error())
		}
		if diff := cmp.Diff([]string{
			`flags: the row of "never good" in feature_flags cannot be read; correct it: enabled: must be true or false, not NULL
enabled_user_ids: must be a text, not NULL
disabled_user_ids: must be a text, not NULL
rollout_percentage: must be a number, not NULL
seed: must be a text, not NULL
notice: must be a text, not NULL
version: must be a whole number, not NULL
updated_at: must be a time, not NULL
updated_by: must be a text, not NULL`,
			`flags: the row of "turns bad" in feature_flags cannot be read; correct it: enabled_user_ids: line 1, column 2: [0]: must be a whole number, without fraction or exponent
rollout_percentage: 101 is not between 0 and 100`,
			`flags: the row of "turns bad, but off" in feature_flags cannot be read; correct it: enabled_user_ids: line 1, column 2: the text is not valid JSON: unexpected end of JSON input`,
		}, got); diff != "" {
			t.Errorf("Health().Bad (-want +got):\n%s", diff)
		}
		if _, err := flags.NewStore(db.DB, flags.StoreOptions{}).Get(t.Context(), "turns bad, but off"); err == nil {
			t.Error("Get of a malformed row returns no error")
		}

		// The rows are corrected, and the one that was never good is deleted.
		replace("turns bad", `true, '[2]', '[]', '0', '', '', 3, '2026-11-23 06:00:00.000', 'x'`)
		replace("turns bad, but off", good)
		db.sql(t, `DELETE FROM feature_flags WHERE feature_name = 'never good'`)
		refreshed(t, w)
		check("turns bad", flags.ReasonOutsidePercentage)
		check("turns bad, but off", flags.ReasonUserEnabled)
		if h := w.Health(); len(h.Bad) != 0 {
			t.Errorf("after the correction Health().Bad is %v, want none", h.Bad)
		}
	})
}

func TestWatcher_KeepsTheLastSnapshotWithoutTheTableOrTheDatabase(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		db.sql(t, `UPDATE feature_flags SET enabled_user_ids = '["1"]'`)
		now := time.Unix(0, 0)
		w := refreshed(t, flags.NewWatcher(flags.NewStore(db.DB, flags.StoreOptions{}), flags.Options{Now: func() time.Time { return now }}))
		check := func(age time.Duration, hasErr bool) {
			t.Helper()
			if d := w.Decide("automation", "1"); !d.On {
				t.Errorf("decision %+v, want on", d)
			}
			if h := w.Health(); !h.Loaded || h.Age != age || (h.Err != nil) != hasErr {
				t.Errorf("health %+v; want loaded, age %v, an error: %t", h, age, hasErr)
			}
		}
		check(0, false)
		now = now.Add(time.Minute)
		db.sql(t, `ALTER TABLE feature_flags RENAME TO hidden`)
		if err := w.Refresh(t.Context()); err == nil {
			t.Error("Refresh without the table returns no error")
		}
		check(time.Minute, true)
		db.sql(t, `ALTER TABLE hidden RENAME TO feature_flags`)
		refreshed(t, w)
		check(0, false)

		now = now.Add(time.Hour)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := w.Refresh(t.Context()); !errors.Is(err, flags.ErrUnavailable) {
			t.Errorf("Refresh from a closed database returned %v, want ErrUnavailable", err)
		}
		check(time.Hour, true)
		if _, err := flagsql.NewAudit(db.DB, sqldb.Options{}).Events(t.Context(), "automation", 1, 0); !errors.Is(err, flags.ErrUnavailable) {
			t.Errorf("Events of a closed database returned %v, want ErrUnavailable", err)
		}
	})
}

func TestStore_CanceledUpdateChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		store := flags.NewStore(db.DB, flags.StoreOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := store.Update(ctx, "automation", flags.Change{Enabled: ptr(false)}, "x", 0); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled Update returned %v, want context.Canceled", err)
		}
		if f, err := store.Get(t.Context(), "automation"); err != nil || !f.Enabled {
			t.Errorf("after a cancelled Update: %+v, %v; want a flag that is enabled still", f, err)
		}
	})
}
