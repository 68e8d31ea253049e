package schema_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// describeTable returns everything about a host's table: columns, constraints, indexes,
// triggers and rows.
func describeTable(t *testing.T, pool *sqlx.DB, table string) []string {
	t.Helper()
	return append(selectRows[string](t, pool, `
		SELECT concat_ws(' ', 'column', a.attname, format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END, 'default ' || pg_get_expr(d.adbin, d.adrelid))
		FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass($1)
		UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE tablename = $1
		UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal
		ORDER BY 1`, table), selectRows[string](t, pool, `SELECT 'row ' || CAST(r AS text) FROM `+table+` AS r ORDER BY 1`)...)
}

func TestMigrate_AdoptsFlagsAndDownRestoresThem(t *testing.T) {
	t.Parallel()
	const plain = `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text)`
	for name, c := range map[string]struct {
		table, rows string
		want        map[string]string // the adopted lists by flag
	}{
		"text in all formats": {plain, `INSERT INTO feature_flags VALUES ('automation', true, '1, 2,3'), ('none', false, NULL), ('empty', true, ''), ('blank', true, '  '),
				('null', true, 'null'), ('json', true, '["7", 8, "a b"]'), ('spaced json', true, ' [1] '), ('one', true, '5'), ('quoted', true, '"5"'), ('single', true, '''a'',''b'''),
				('array', true, '{1,2}'), ('no json', true, '[a, b]'), ('trailing', true, '1,,2,')`,
			map[string]string{"automation": `["1","2","3"]`, "none": `[]`, "empty": `[]`, "blank": `[]`, "null": `[]`, "json": `["7",8,"a b"]`, "spaced json": `[1]`,
				"one": `["5"]`, "quoted": `["5"]`, "single": `["a","b"]`, "array": `["1","2"]`, "no json": `["a","b"]`, "trailing": `["1","2"]`}},
		"JSON, a serial id and defaults": {`CREATE TABLE feature_flags (id serial PRIMARY KEY, feature_name varchar(100) NOT NULL UNIQUE, enabled boolean DEFAULT true, enabled_user_ids json DEFAULT '[]')`,
			`INSERT INTO feature_flags (feature_name, enabled_user_ids) VALUES ('other', '[1,  2]'), ('none', NULL)`,
			map[string]string{"automation": `[]`, "other": `[1,2]`, "none": `[]`}},
		"jsonb like the module's": {`CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean NOT NULL DEFAULT false, enabled_user_ids jsonb NOT NULL DEFAULT '[]')`,
			`INSERT INTO feature_flags VALUES ('automation', true, '["1"]')`, map[string]string{"automation": `["1"]`}},
		"an array": {`CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids integer[])`,
			`INSERT INTO feature_flags VALUES ('other', true, '{1,2}'), ('none', true, NULL), ('empty', true, '{}')`,
			map[string]string{"automation": `[]`, "other": `["1","2"]`, "none": `[]`, "empty": `[]`}},
		"names without a unique key": {`CREATE TABLE feature_flags (feature_name text NOT NULL, enabled boolean, enabled_user_ids text)`,
			`INSERT INTO feature_flags VALUES ('other', true, '9')`, map[string]string{"automation": `[]`, "other": `["9"]`}},
		"columns with the names of the module's": {`CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text, rollout_percentage integer, notice varchar(20))`,
			`INSERT INTO feature_flags VALUES ('automation', true, '1', 25, 'hello')`, map[string]string{"automation": `["1"]`}},
		"no rows": {plain, `SELECT 1`, map[string]string{"automation": `[]`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgres(t)
			execute(t, pool, c.table, c.rows)
			before := describeTable(t, pool, "feature_flags")
			migrate(t, pool)
			if applied := migrate(t, pool); len(applied) != 0 {
				t.Errorf("the second Migrate applied %v, want nothing", applied)
			}
			got := map[string]any{}
			for _, r := range selectRows[struct{ Name, List string }](t, pool, `SELECT feature_name AS name, enabled_user_ids AS list FROM feature_flags`) {
				got[r.Name] = parseJSON(t, r.List)
			}
			want := map[string]any{}
			for name, list := range c.want {
				want[name] = parseJSON(t, list)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("adopted lists (-want +got)\n%s", diff)
			}
			execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 10 WHERE feature_name = 'automation'`)
			if n := scalar[int](t, pool, `SELECT count(*) FROM feature_flag_events WHERE action = 'update'`); n != 1 {
				t.Errorf("%d update events, want 1", n)
			}
			execute(t, pool, `UPDATE feature_flags SET rollout_percentage = 25`) // the value in one of the tables
			down(t, pool)
			if diff := cmp.Diff(before, describeTable(t, pool, "feature_flags")); diff != "" {
				t.Errorf("the restored table (-before +after)\n%s", diff)
			}
			migrate(t, pool)
		})
	}
}

func TestDown_WritesChangedListsInTheHostsFormat(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, `CREATE TABLE feature_flags (feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text)`,
		`INSERT INTO feature_flags VALUES ('commas', true, '1,2'), ('json', true, '[1]'), ('gone', true, '1')`)
	migrate(t, pool)
	execute(t, pool, `UPDATE feature_flags SET enabled_user_ids = '[1, 2, "c"]' WHERE feature_name <> 'automation'`,
		`DELETE FROM feature_flags WHERE feature_name = 'gone'`, `INSERT INTO feature_flags (feature_name, enabled) VALUES ('new', true)`)
	down(t, pool)
	got := selectRows[string](t, pool, `SELECT feature_name || ' ' || enabled_user_ids FROM feature_flags ORDER BY 1`)
	if diff := cmp.Diff([]string{`commas 1,2,c`, `json [1, 2, "c"]`, `new []`}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

const hostSettings = `
	CREATE TABLE users (id serial PRIMARY KEY, name text);
	INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 5) AS n;
	CREATE TABLE teams (id integer PRIMARY KEY);
	INSERT INTO teams VALUES (1);
	CREATE TABLE user_automation_settings (
		id serial PRIMARY KEY,
		user_id integer UNIQUE REFERENCES users (id) ON DELETE CASCADE,
		is_enabled boolean DEFAULT true,
		session_duration integer DEFAULT 1800,
		created_at timestamp DEFAULT now(),
		updated_at timestamp,
		team_id integer REFERENCES teams (id));
	INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, team_id) VALUES
		(1, true, 3600, '2026-01-02 03:04:05.678901', '2026-02-03 04:05:06', 1),
		(2, false, 600, '2026-07-02 03:04:05', '2026-07-03 04:05:06', NULL)`

func TestMigrate_AdoptsSettingsAndDownRestoresThem(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET timezone = ''America/New_York''', current_database()); END $$`)
	if err := pool.PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	pool.SetMaxIdleConns(0) // only new connections have the time zone
	execute(t, pool, hostSettings, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at) VALUES (4, NULL, NULL, NULL), (NULL, true, 60, NULL)`,
		`CREATE VIEW enabled_users AS SELECT user_id, created_at FROM user_automation_settings WHERE is_enabled`)
	before := describeTable(t, pool, "user_automation_settings")
	migrate(t, pool)
	if applied := migrate(t, pool); len(applied) != 0 {
		t.Errorf("the second Migrate applied %v, want nothing", applied)
	}
	wantProblems(t, pool, "")
	store := newSettings(t, pool)
	one, err := store.Get(t.Context(), "1")
	if err != nil || !one.IsEnabled || one.SessionDuration != time.Hour || !one.CreatedAt.Equal(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)) {
		t.Errorf("adopted settings %+v, error %v; want the host's", one, err)
	}
	if four, err := store.Get(t.Context(), "4"); err != nil || four.IsEnabled || four.SessionDuration != time.Hour || !four.CreatedAt.IsZero() {
		t.Errorf("read NULLs as %+v, error %v; want off, an hour and no time", four, err)
	}
	three, err := store.Put(t.Context(), "3", settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.Always)
	if err != nil || time.Since(three.UpdatedAt).Abs() > 20*time.Minute {
		t.Errorf("put %+v, error %v; want the current time as UpdatedAt", three, err)
	}
	if _, err := store.Delete(t.Context(), "3", settings.Always); err != nil {
		t.Error(err)
	}
	for _, user := range []string{"alice", "77"} { // not a number; not a user of the host
		if _, err := store.Put(t.Context(), user, settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.Always); err == nil {
			t.Errorf("the host's table accepted the user %s, want an error", user)
		}
	}
	down(t, pool)
	if diff := cmp.Diff(before, describeTable(t, pool, "user_automation_settings")); diff != "" {
		t.Errorf("the restored table (-before +after)\n%s", diff)
	}
}

func newSettings(t *testing.T, pool *sqlx.DB) *settings.Store {
	t.Helper()
	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestSettingsTrigger_VersionsWritesOfOtherPrograms(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, hostSettings)
	migrate(t, pool)
	store := newSettings(t, pool)
	get := func(user string) settings.Settings {
		t.Helper()
		s, err := store.Get(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := get("1")
	execute(t, pool, `UPDATE user_automation_settings SET is_enabled = false WHERE user_id = 1`)
	if after := get("1"); after.IsEnabled || after.Version != before.Version+1 || time.Since(after.UpdatedAt).Abs() > 20*time.Minute {
		t.Errorf("settings %+v after another program's update, want off, the next version and the current time", after)
	}
	execute(t, pool, `UPDATE user_automation_settings SET team_id = NULL WHERE user_id = 1`)
	if same := get("1"); same.Version != before.Version+1 {
		t.Errorf("version %d after an update of another column, want %d", same.Version, before.Version+1)
	}
	if _, err := store.Delete(t.Context(), "1", settings.Always); err != nil {
		t.Fatal(err)
	}
	execute(t, pool, `UPDATE user_automation_settings SET is_enabled = true WHERE user_id = 1`)
	if back := get("1"); !back.IsEnabled || back.Version <= before.Version+1 {
		t.Errorf("settings %+v after another program's update of deleted settings, want on and a later version", back)
	}
	execute(t, pool, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at) VALUES (3, true, 600, NULL, NULL)`)
	if three := get("3"); !three.IsEnabled || time.Since(three.CreatedAt).Abs() > 20*time.Minute {
		t.Errorf("settings %+v after an insert with NULLs, want on and the current time as CreatedAt", three)
	}
}

func TestDown_KeepsTheHostsForeignKeys(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, hostSettings)
	migrate(t, pool)
	execute(t, pool, `DELETE FROM users WHERE id = 1`)
	if n := scalar[int](t, pool, `SELECT count(*) FROM user_automation_settings`); n != 1 {
		t.Errorf("%d rows after the host deleted a user, want 1, because the foreign key cascades", n)
	}
	down(t, pool)
	if _, err := pool.ExecContext(t.Context(), `INSERT INTO user_automation_settings (user_id) VALUES (77)`); err == nil {
		t.Error("the settings of an unknown user were accepted, want an error of the foreign key")
	}
}

func TestDown_KeepsAHostsTableThatEqualsOurs(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, `CREATE TABLE user_automation_settings (user_id text PRIMARY KEY, is_enabled boolean NOT NULL, session_duration integer NOT NULL,
			created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())`,
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration) VALUES ('a', false, 60)`)
	before := describeTable(t, pool, "user_automation_settings")
	migrate(t, pool)
	down(t, pool)
	if diff := cmp.Diff(before, describeTable(t, pool, "user_automation_settings")); diff != "" {
		t.Errorf("the restored table (-before +after)\n%s", diff)
	}
}

func TestMigrate_AdoptsCommonTablesOfFlags(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ columns, row, want string }{
		"NULLs":                       {`feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids text`, `('other', NULL, NULL)`, `false []`},
		"no enabled_user_ids":         {`feature_name text PRIMARY KEY, enabled boolean`, `('other', true)`, `true []`},
		"a name alone":                {`feature_name text PRIMARY KEY`, `('other')`, `false []`},
		"JSON null":                   {`feature_name text PRIMARY KEY, enabled boolean, enabled_user_ids jsonb`, `('other', true, 'null')`, `true []`},
		"enabled as a number":         {`feature_name text PRIMARY KEY, enabled integer DEFAULT 0, enabled_user_ids text`, `('other', 1, '7')`, `true ["7"]`},
		"enabled as a missing number": {`feature_name text PRIMARY KEY, enabled smallint, enabled_user_ids text`, `('other', NULL, '7')`, `false ["7"]`},
		"enabled as a text":           {`feature_name text PRIMARY KEY, enabled varchar(5), enabled_user_ids text`, `('other', 'Yes', '7')`, `true ["7"]`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgres(t)
			execute(t, pool, `CREATE TABLE feature_flags (`+c.columns+`)`, `INSERT INTO feature_flags VALUES `+c.row,
				`CREATE VIEW names AS SELECT feature_name FROM feature_flags`)
			before := describeTable(t, pool, "feature_flags")
			migrate(t, pool)
			wantProblems(t, pool, "")
			if got := scalar[string](t, pool, `SELECT enabled || ' ' || enabled_user_ids FROM feature_flags WHERE feature_name = 'other'`); got != c.want {
				t.Errorf("adopted flag %s, want %s", got, c.want)
			}
			down(t, pool)
			if diff := cmp.Diff(before, describeTable(t, pool, "feature_flags")); diff != "" {
				t.Errorf("the restored table (-before +after)\n%s", diff)
			}
		})
	}
}

func TestMigrate_RejectsTablesThatItCannotAdoptAndChangesNothing(t *testing.T) {
	t.Parallel()
	const flags = `CREATE TABLE feature_flags (feature_name text, enabled text, enabled_user_ids text, rollout_percentage text)`
	const settings = `CREATE TABLE user_automation_settings `
	for name, c := range map[string]struct {
		create []string
		want   []string // parts of the error: table and row, and the remedy
	}{
		"a list without ids":     {[]string{flags, `INSERT INTO feature_flags VALUES ('a', 'true', '[1.5, null]')`}, []string{`feature_flags: enabled_user_ids of the flag 'a'`, `[1.5, null]`, `UPDATE feature_flags SET enabled_user_ids`}},
		"a flag twice":           {[]string{flags, `INSERT INTO feature_flags VALUES ('a', 'true', ''), ('a', 'true', '')`}, []string{`feature_flags has 2 rows of the flag 'a'`, `SELECT ctid`}},
		"a flag without a name":  {[]string{flags, `INSERT INTO feature_flags VALUES (NULL, 'true', '')`}, []string{`feature_flags has a row without a feature_name`, `DELETE FROM feature_flags`}},
		"neither true nor false": {[]string{flags, `INSERT INTO feature_flags VALUES ('a', 'maybe', '')`}, []string{`enabled of the flag 'a' is 'maybe'`, `UPDATE feature_flags SET enabled`}},
		"more than 100 %":        {[]string{flags, `INSERT INTO feature_flags VALUES ('a', 'true', '', '150')`}, []string{`rollout_percentage of the flag 'a' is 150`, `UPDATE feature_flags SET rollout_percentage = 0`}},
		"no column of names":     {[]string{`CREATE TABLE feature_flags (name text)`}, []string{`feature_flags has no column feature_name`, `RENAME COLUMN`}},
		"a view on a list":       {[]string{flags, `CREATE VIEW lists AS SELECT enabled_user_ids FROM feature_flags`}, []string{`enabled_user_ids has to become jsonb`, `DROP VIEW lists`}},
		"a view of that name":    {[]string{`CREATE VIEW feature_flags AS SELECT 'a'::text AS feature_name`}, []string{`feature_flags is not a table`, `Rename it`}},
		"a user twice":           {[]string{settings + `(user_id integer, is_enabled boolean)`, `INSERT INTO user_automation_settings VALUES (7, true), (7, false)`}, []string{`2 rows of the user '7'`, `SELECT ctid`}},
		"no column of users":     {[]string{settings + `(id integer, is_enabled boolean)`}, []string{`user_automation_settings has no column user_id`, `RENAME COLUMN`}},
		"a duration as a text":   {[]string{settings + `(user_id integer, session_duration text)`}, []string{`the column session_duration is text`, `ALTER COLUMN session_duration TYPE int4`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgres(t)
			execute(t, pool, c.create...)
			table := "feature_flags"
			if strings.HasPrefix(c.create[0], settings) {
				table = "user_automation_settings"
			}
			before, objects := describeTable(t, pool, table), listObjects(t, pool)
			// The plan must report the same reasons, even while the host writes to the table.
			host, err := pool.BeginTxx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := host.ExecContext(t.Context(), `LOCK TABLE `+table+` IN ROW EXCLUSIVE MODE`); err != nil {
				t.Fatal(err)
			}
			refused := makePlan(t, pool).Refuse
			if err := host.Rollback(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(objects, listObjects(t, pool)); diff != "" {
				t.Errorf("objects after MakePlan (-before +after)\n%s", diff)
			}
			_, err = schema.Migrate(t.Context(), pool)
			for _, part := range c.want {
				if len(refused) != 1 || !strings.Contains(refused[0], part) {
					t.Errorf("the plan refuses %q, want one reason that contains %q", refused, part)
				}
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("Migrate: error %v, want one that contains %q", err, part)
				}
			}
			if diff := cmp.Diff(before, describeTable(t, pool, table)); diff != "" {
				t.Errorf("the host's table after Migrate (-before +after)\n%s", diff)
			}
		})
	}
}
