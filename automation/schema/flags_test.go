package schema_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// setSetting sets automation.KEY for a transaction. SQLite keeps such a setting in a table.
func setSetting(t *testing.T, tx *sqlx.Tx, key, value string) {
	t.Helper()
	query := `SELECT set_config('automation.` + key + `', '` + value + `', true)`
	if tx.DriverName() == "sqlite" {
		query = `INSERT INTO automation_context (key, value) VALUES ('` + key + `', '` + value + `')`
	}
	if _, err := tx.ExecContext(t.Context(), query); err != nil {
		t.Fatal(err)
	}
}

// executeWith runs statements in a transaction in which automation.KEY is set.
func executeWith(t *testing.T, pool *sqlx.DB, key, value string, statements ...string) error {
	t.Helper()
	tx, err := pool.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	setSetting(t, tx, key, value)
	for _, s := range statements {
		if _, err := tx.ExecContext(t.Context(), s); err != nil {
			return err
		}
	}
	if tx.DriverName() == "sqlite" {
		if _, err := tx.ExecContext(t.Context(), `DELETE FROM automation_context`); err != nil {
			t.Fatal(err)
		}
	}
	return tx.Commit()
}

type event struct {
	Name, Action, By string
	Version          int64
	Before, After    any
}

func selectEvents(t *testing.T, pool *sqlx.DB) (all []event) {
	t.Helper()
	for _, r := range selectRows[struct {
		Name, Action, By string
		Version          int64
		Before, After    string
		At               sqldb.Time
	}](t, pool, `SELECT feature_name AS name, action, changed_by AS by, version, before, after, changed_at AS at FROM feature_flag_events ORDER BY id`) {
		if time.Since(r.At.Time).Abs() > 20*time.Minute {
			t.Errorf("the event's time is %v, want the current time", r.At)
		}
		by, _, _ := strings.Cut(r.By, ":") // PostgreSQL has "sql:" and the role
		all = append(all, event{r.Name, r.Action, by, r.Version, parseJSON(t, r.Before), parseJSON(t, r.After)})
	}
	return all
}

type object = map[string]any

func TestFlagAudit_RecordsChanges(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrated(t, pool)
		allColumns := func(name string, enabled bool, percentage float64, ids ...any) object {
			return object{"feature_name": name, "enabled": enabled, "enabled_user_ids": append([]any{}, ids...), "disabled_user_ids": []any{},
				"rollout_percentage": percentage, "seed": "", "notice": ""}
		}
		var want []event
		expect := func(change string, more ...event) {
			t.Helper()
			want = append(want, more...)
			if diff := cmp.Diff(want, selectEvents(t, pool)); diff != "" {
				t.Fatalf("events after %s (-want +got)\n%s", change, diff)
			}
		}
		expect("the migration", event{"automation", "insert", "migration", 1, object{}, allColumns("automation", true, 0)})

		execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
		expect("one column by hand", event{"automation", "update", "sql", 2, object{"rollout_percentage": 0.0}, object{"rollout_percentage": 10.0}})

		execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 10.00, enabled = true WHERE feature_name = 'automation'`)
		expect("an update that changes nothing")

		execute(t, pool, `UPDATE feature_flags SET enabled_user_ids = '[1, "x"]', notice = 'say "hi"', seed = 's', enabled = false WHERE feature_name = 'automation'`)
		expect("several columns", event{"automation", "update", "sql", 3,
			object{"enabled_user_ids": []any{}, "notice": "", "seed": "", "enabled": true},
			object{"enabled_user_ids": []any{1.0, "x"}, "notice": `say "hi"`, "seed": "s", "enabled": false}})

		if err := executeWith(t, pool, "actor", "ann", `UPDATE feature_flags SET disabled_user_ids = '["z"]' WHERE feature_name = 'automation'`); err != nil {
			t.Fatal(err)
		}
		expect("a change by an actor", event{"automation", "update", "ann", 4, object{"disabled_user_ids": []any{}}, object{"disabled_user_ids": []any{"z"}}})

		execute(t, pool, `UPDATE feature_flags SET enabled = true WHERE feature_name = 'automation'`)
		expect("a change by hand after it", event{"automation", "update", "sql", 5,
			object{"enabled": false, "notice": `say "hi"`}, object{"enabled": true, "notice": ""}})

		execute(t, pool, `UPDATE feature_flags SET enabled = false, updated_by = 'bob', version = 99 WHERE feature_name = 'automation'`)
		expect("a change that sets updated_by and version", event{"automation", "update", "bob", 6, object{"enabled": true}, object{"enabled": false}})

		execute(t, pool, `UPDATE feature_flags SET seed = '', updated_by = 'bob' WHERE feature_name = 'automation'`)
		expect("another change with the same updated_by", event{"automation", "update", "bob", 7, object{"seed": "s"}, object{"seed": ""}})

		execute(t, pool, `UPDATE feature_flags SET updated_by = 'eve' WHERE feature_name = 'automation'`, `UPDATE feature_flags SET seed = 't' WHERE feature_name = 'automation'`)
		expect("a change without an actor after one of updated_by alone", event{"automation", "update", "sql", 8, object{"seed": ""}, object{"seed": "t"}})

		execute(t, pool, `INSERT INTO feature_flags (feature_name, enabled, enabled_user_ids, version) VALUES ('other', true, '[7]', 12)`)
		expect("an insert", event{"other", "insert", "sql", 1, object{}, allColumns("other", true, 0, 7.0)})

		execute(t, pool, `UPDATE feature_flags SET feature_name = 'third' WHERE feature_name = 'other'`)
		expect("a new name", event{"third", "update", "sql", 2, object{"feature_name": "other"}, object{"feature_name": "third"}})

		if err := executeWith(t, pool, "actor", "cleo", `DELETE FROM feature_flags WHERE feature_name = 'third'`); err != nil {
			t.Fatal(err)
		}
		expect("a delete", event{"third", "delete", "cleo", 2, allColumns("third", true, 0, 7.0), object{}})

		type flagState struct {
			Version int64
			By      string
			At      sqldb.Time
		}
		s := selectRows[flagState](t, pool, `SELECT version, updated_by AS by, updated_at AS at FROM feature_flags`)
		if len(s) != 1 || s[0].Version != 8 || !strings.HasPrefix(s[0].By, "sql") || time.Since(s[0].At.Time).Abs() > 20*time.Minute {
			t.Errorf("flags %+v, want one of version 8, changed by sql at the current time", s)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flag_events WHERE changed_by LIKE 'sql:%'`); n == 0 && !isSQLite(pool) {
			t.Error("no event has sql:ROLE in changed_by")
		}
	})
}

func TestFlagAudit_RecordsTruncate(t *testing.T) {
	t.Parallel()
	pool := migratedPostgres(t)
	execute(t, pool, `INSERT INTO feature_flags (feature_name) VALUES ('other')`, `TRUNCATE feature_flags`)
	if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flag_events WHERE action = 'delete'`); n != 2 {
		t.Errorf("%d deletes in the audit, want 2", n)
	}
}

func TestFlagAudit_IsAppendOnlyFor90Days(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrated(t, pool)
		statements := []string{`UPDATE feature_flag_events SET changed_by = 'nobody'`, `DELETE FROM feature_flag_events`}
		if !isSQLite(pool) {
			// This setting once allowed anybody to delete.
			statements = append(statements, `TRUNCATE feature_flag_events`, `SET automation.cleanup = 'on'; DELETE FROM feature_flag_events`)
		}
		for _, s := range statements {
			if _, err := pool.ExecContext(t.Context(), s); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: error %v, want that of the append-only trigger", s, err)
			}
		}
		day := func(age string) string {
			if isSQLite(pool) {
				return "strftime('%Y-%m-%d %H:%M:%f', 'now', '-" + age + "')"
			}
			return "now() - interval '" + age + "'"
		}
		for age, allowed := range map[string]bool{"89 days": false, "91 days": true} {
			execute(t, pool, `INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
				VALUES ('`+age+`', 1, 'update', `+day(age)+`, 't', '{}', '{}')`)
			if _, err := pool.ExecContext(t.Context(), `DELETE FROM feature_flag_events WHERE feature_name = '`+age+`'`); (err == nil) != allowed {
				t.Errorf("deleting a row of %s: error %v, want that it is allowed: %v", age, err, allowed)
			}
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flag_events`); n != 2 {
			t.Errorf("%d events, want 2: that of the flag and that of 89 days", n)
		}
	})
}

func TestFlagAudit_NotifiesListeners(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	pool := migrated(t, pgtest.Open(t, dsn))
	listener := pq.NewListener(dsn, time.Second, time.Minute, nil)
	defer func() { _ = listener.Close() }()
	if err := listener.Listen("automation_flags"); err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `UPDATE feature_flags SET enabled = enabled`, `UPDATE feature_flags SET enabled = false`)
	select {
	case n := <-listener.Notify:
		if n.Extra != "automation" {
			t.Errorf("notified of the update of flag %q, want automation", n.Extra)
		}
	case <-time.After(testTimeout):
		t.Fatal("timed out waiting for a notification")
	}
	execute(t, pool, `DELETE FROM feature_flags WHERE feature_name = 'automation'`)
	if n := <-listener.Notify; n.Extra != "automation" {
		t.Errorf("notified of the delete of flag %q, want automation", n.Extra)
	}
}

func TestFlagAudit_WorksFromAnotherSearchPath(t *testing.T) {
	t.Parallel()
	pool := migratedPostgres(t)
	pool.SetMaxOpenConns(1)
	execute(t, pool, `SET search_path = pg_catalog`, `UPDATE public.feature_flags SET enabled = false`, `RESET search_path`)
	if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flag_events WHERE action = 'update'`); n != 1 {
		t.Errorf("%d update events, want 1", n)
	}
}

func TestConstraints_RejectMalformedRows(t *testing.T) {
	t.Parallel()
	flag := func(column, value string) string {
		return `UPDATE feature_flags SET ` + column + ` = ` + value + ` WHERE feature_name = 'automation'`
	}
	const newFlag = `INSERT INTO feature_flags (feature_name, enabled_user_ids) VALUES `
	const newSettings = `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES `
	session := func(state, more, values string) string {
		return `INSERT INTO automation_sessions (id, model_id, owner_id, user_id, created_at, next_at, state, duration` + more + `)
			VALUES ('a', 'm', 'u', 'u', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000', '` + state + `', ` + values + `)`
	}
	rejected := []string{newFlag + `('', '[]')`, newFlag + `(NULL, '[]')`, newFlag + `('automation', '[]')`, newFlag + `('x', '{"a": 1}')`, newFlag + `('x', '[{}]')`,
		flag("enabled", "NULL"),
		newSettings + `('', true, 3600)`, newSettings + `(NULL, true, 3600)`, newSettings + `('u', true, 0)`, newSettings + `('u', true, -1)`,
		newSettings + `('u', NULL, 3600)`, newSettings + `('u', true, NULL)`, newSettings + `('u', true, 'long')`,
		session("nonsense", "", "3600"), session("opening", "", "0"), session("open", "", "3600"), session("closed", "", "3600"),
		session("opening", ", lease_token", "3600, 't'"), session("opening", ", lane", "3600, 'fast'"),
		session("open", ", session_id", "3600, '0x1'"),
	}
	for _, p := range []string{"-1", "-0.01", "100.01", "150", "'NaN'", "'Infinity'", "NULL", "'many'"} {
		rejected = append(rejected, flag("rollout_percentage", p))
	}
	for _, ids := range []string{"NULL", "''", "'1, 2'", "'null'", "'7'", `'"7"'`, "'{}'", "'[1.5]'", "'[null]'", "'[true]'", `'[""]'`, "'[[1]]'", `'["a", 1'`} {
		rejected = append(rejected, flag("enabled_user_ids", ids), flag("disabled_user_ids", ids))
	}
	accepted := []string{newFlag + `('y', '[]')`, newSettings + `('u', true, 1)`,
		session("opening", ", lease_token, lease_holder, lease_until", "3600, 't', 'h', '2026-01-01 00:00:00.000'")}
	for _, p := range []string{"0", "0.01", "33.33", "100"} {
		accepted = append(accepted, flag("rollout_percentage", p))
	}
	for _, ids := range []string{"'[]'", "'[1, -2, 12345678901234567890]'", `'["7", "ü", " "]'`} {
		accepted = append(accepted, flag("enabled_user_ids", ids), flag("disabled_user_ids", ids))
	}
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		migrated(t, pool)
		db := sqldb.New(pool, sqldb.Options{})
		try := func(statement string) error {
			_, err := sqldb.Write(t.Context(), db, "try", func(tx *sqldb.Tx) (int, error) { return 0, tx.Script(statement) })
			return err
		}
		before := auditJSON(t, pool)
		for _, s := range rejected {
			if err := try(s); !sqldb.IsConstraint(err) {
				t.Errorf("%s: error %v, want that of a constraint", s, err)
			}
		}
		if diff := cmp.Diff(before, auditJSON(t, pool)); diff != "" {
			t.Errorf("the audit after rejected statements (-before +after)\n%s", diff)
		}
		for _, s := range accepted {
			if err := try(s); err != nil {
				t.Errorf("%s: error %v, want none", s, err)
			}
		}
	})
}

// auditJSON returns all events of the audit.
func auditJSON(t *testing.T, pool *sqlx.DB) string {
	t.Helper()
	b, err := json.Marshal(selectEvents(t, pool))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
