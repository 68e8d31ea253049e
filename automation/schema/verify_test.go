package schema_test

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

var update = flag.Bool("update", false, "write automation/schema/expected/*.txt")

func TestVerify_ExpectsWhatTheMigrationsCreate(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		got, err := schema.Inventory(t.Context(), migrated(t, pool))
		if err != nil {
			t.Fatal(err)
		}
		name := "expected/postgres.txt"
		if isSQLite(pool) {
			name = "expected/sqlite.txt"
		}
		if *update {
			if err := os.WriteFile(name, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			return // this test binary has embedded the old files
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("the migrations create other objects than Verify expects; if that is right, run: go test ./automation/schema -run Expects -update\n%s", diff)
		}
		wantProblems(t, pool, "")
	})
}

// wantProblems checks that Verify returns exactly these problems, in any order.
func wantProblems(t *testing.T, pool *sqlx.DB, role string, want ...string) []schema.Problem {
	t.Helper()
	list, err := schema.Verify(t.Context(), pool, role)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]string, 0)
	for _, p := range list {
		got = append(got, p.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		t.Errorf("problems (-want +got)\n%s", diff)
	}
	return list
}

func TestVerify_FindsDamageAndItsSQLRepairsIt(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	for name, test := range map[string]struct {
		damage string
		want   []string
	}{
		"an index":                  {`DROP INDEX automation_sessions_due`, []string{"index automation_sessions_due is missing"}},
		"a column":                  {`ALTER TABLE automation_sessions DROP COLUMN last_error`, []string{"column last_error of automation_sessions is missing"}},
		"a NOT NULL":                {`ALTER TABLE automation_sessions ALTER COLUMN owner_id DROP NOT NULL`, []string{"column owner_id of automation_sessions has another definition: text instead of text NOT NULL"}},
		"a column's type":           {`ALTER TABLE automation_sessions ALTER COLUMN charged_at TYPE timestamp`, []string{"column charged_at of automation_sessions has another definition: timestamp without time zone instead of timestamp with time zone"}},
		"a unique key":              {`ALTER TABLE automation_sessions DROP CONSTRAINT automation_sessions_replaces_key`, []string{"unique key (replaces) of automation_sessions is missing"}},
		"a check":                   {`ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_percentage_is_0_to_100`, []string{"check feature_flags_percentage_is_0_to_100 of feature_flags is missing"}},
		"a check that is NOT VALID": {`ALTER TABLE feature_flags DROP CONSTRAINT feature_flags_name_is_not_empty, ADD CONSTRAINT feature_flags_name_is_not_empty CHECK (feature_name <> '') NOT VALID`, []string{"check feature_flags_name_is_not_empty of feature_flags has another definition*"}},
		"a trigger":                 {`DROP TRIGGER automation_flag_changed ON feature_flags`, []string{"trigger automation_flag_changed of feature_flags is missing"}},
		"a disabled trigger":        {`ALTER TABLE feature_flag_events DISABLE TRIGGER automation_append_only`, []string{"trigger automation_append_only of feature_flag_events has another definition*"}},
		"a function's body":         {`CREATE OR REPLACE FUNCTION automation_bucket(seed text, user_id text) RETURNS integer LANGUAGE sql AS 'SELECT 1'`, []string{"function automation_bucket(seed text, user_id text) has another definition*"}},
		"a row":                     {`DELETE FROM automation_wallet`, []string{"row name = 'wallet' of automation_wallet is missing"}},
		"a table":                   {`DROP TABLE automation_jobs`, []string{"table automation_jobs is missing"}},
		"no damage, but additional objects": {`ALTER TABLE feature_flags ADD COLUMN host text; CREATE INDEX hosts ON feature_flags (host);
			CREATE TABLE automation_hosts (n integer)`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := migratedPostgres(t)
			execute(t, pool, test.damage)
			list, err := schema.Verify(t.Context(), pool, "")
			if err != nil || len(list) != len(test.want) {
				t.Fatalf("problems %v, error %v; want %v", list, err, test.want)
			}
			for i, p := range list {
				want, isPrefix := strings.CutSuffix(test.want[i], "*")
				if p.String() != want && (!isPrefix || !strings.HasPrefix(p.String(), want)) {
					t.Errorf("problem %q, want %q", p, test.want[i])
				}
				execute(t, pool, p.SQL)
			}
			migrate(t, pool)
			wantProblems(t, pool, "")
		})
	}
}

func TestVerify_WorksInAnotherSchema(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	execute(t, pgtest.Open(t, dsn), `CREATE SCHEMA "the host's"`, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = "the host''s", public', current_database()); END $$`)
	pool := migrated(t, pgtest.Open(t, dsn))
	wantProblems(t, pool, "")
	execute(t, pool, `DROP FUNCTION automation_flag_changed CASCADE`)
	for _, p := range wantProblems(t, pool, "", "function automation_flag_changed() is missing", "trigger automation_flag_changed of feature_flags is missing") {
		execute(t, pool, p.SQL)
	}
	wantProblems(t, pool, "")
}

func TestVerify_FindsDamageInSQLite(t *testing.T) {
	t.Parallel()
	pool := migrated(t, sqlite(t, filepath.Join(t.TempDir(), "a.db")))
	execute(t, pool, `DROP INDEX automation_sessions_due`, `DROP TRIGGER automation_flag_deleted`, `DELETE FROM feature_flags`,
		`ALTER TABLE automation_sessions DROP COLUMN last_error`)
	for _, p := range wantProblems(t, pool, "", "index automation_sessions_due is missing", "trigger automation_flag_deleted of feature_flags is missing",
		"row feature_name = 'automation' of feature_flags is missing", "column last_error of automation_sessions is missing") {
		execute(t, pool, p.SQL)
	}
	wantProblems(t, pool, "")
}

func TestVerify_ReportsPendingMigrations(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		list, err := schema.Verify(t.Context(), pool, "")
		if err != nil || len(list) != len(migrate(t, pool)) || !strings.HasPrefix(list[0].String(), "migration 1, automation, has not been applied") {
			t.Fatalf("problems %v, error %v; want one for each migration", list, err)
		}
		if !strings.Contains(list[0].SQL, "automationctl migrate up") {
			t.Errorf("the SQL is %q, want it to contain automationctl migrate up", list[0].SQL)
		}
	})
}

func TestVerify_AcceptsDifferencesOfANewerDatabase(t *testing.T) {
	t.Parallel()
	pool := migratedPostgres(t)
	execute(t, pool, `INSERT INTO automation_schema_migrations VALUES (99, 'later', now())`,
		`CREATE OR REPLACE FUNCTION automation_bucket(seed text, user_id text) RETURNS integer LANGUAGE sql AS 'SELECT 1'`,
		`DROP INDEX automation_sessions_due`)
	wantProblems(t, pool, "", "index automation_sessions_due is missing")
}

// hostTables creates tables of a host that Migrate adopts.
const hostTables = `CREATE TABLE users (id serial PRIMARY KEY);
	CREATE TABLE feature_flags (feature_name varchar(100) PRIMARY KEY, enabled boolean, enabled_user_ids text);
	CREATE TABLE user_automation_settings (id serial PRIMARY KEY, user_id integer NOT NULL UNIQUE REFERENCES users (id),
		is_enabled boolean NOT NULL, session_duration bigint NOT NULL, created_at timestamp, updated_at timestamp)`

func TestVerify_AcceptsAdoptedTables(t *testing.T) {
	t.Parallel()
	pool := postgres(t)
	execute(t, pool, hostTables)
	migrate(t, pool)
	wantProblems(t, pool, "")
}

// serviceRole migrates a database and returns a pool of its owner and one of the role
// the-gateway, which has the privileges of deploy/grants.sql.
func serviceRole(t *testing.T, before ...string) (owner, pool *sqlx.DB) {
	t.Helper()
	grants, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grants.sql"))
	if err != nil {
		t.Fatal(err)
	}
	dsn := pgtest.Start(t, pgtest.Options{}).Database(t)
	owner = pgtest.Open(t, dsn)
	execute(t, owner, before...)
	migrate(t, owner)
	execute(t, owner, `REVOKE ALL ON SCHEMA public FROM PUBLIC`, `REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC`,
		string(grants), string(grants), `CREATE ROLE "the-gateway" LOGIN`, `GRANT automation_service TO "the-gateway"`)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("the-gateway")
	return owner, pgtest.Open(t, u.String())
}

func TestGrants_AreExactlyWhatVerifyChecks(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes several seconds")
	}
	owner, pool := serviceRole(t, hostTables)
	wantProblems(t, owner, "the-gateway")
	wantProblems(t, owner, "automation_service")
	wantProblems(t, pool, "")
	migrate(t, pool)
	if _, err := schema.Verify(t.Context(), owner, "nobody-of-that-name"); !errors.Is(err, schema.ErrNoRole) {
		t.Errorf("error %v, want ErrNoRole", err)
	}
	type grant struct{ Name, Right string }
	granted := selectRows[grant](t, owner, `SELECT table_name AS name, privilege_type AS right FROM information_schema.role_table_grants WHERE grantee = 'automation_service'`)
	for _, g := range granted {
		execute(t, owner, fmt.Sprintf(`REVOKE %s ON %s FROM automation_service`, g.Right, g.Name))
		p := wantProblems(t, owner, "the-gateway", "role the-gateway lacks "+g.Right+" on "+g.Name)
		if want := fmt.Sprintf(`GRANT %s ON %s TO "the-gateway";`, g.Right, g.Name); len(p) == 1 && p[0].SQL != want {
			t.Errorf("SQL %s, want %s", p[0].SQL, want)
		}
		wantProblems(t, pool, "", "role the-gateway lacks "+g.Right+" on "+g.Name)
		execute(t, owner, fmt.Sprintf(`GRANT %s ON %s TO automation_service`, g.Right, g.Name))
	}
	for _, table := range selectRows[string](t, owner, `SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'users'`) {
		if !slices.ContainsFunc(granted, func(g grant) bool { return g.Name == table }) {
			t.Errorf("no privilege on the table %s is granted: add it to rights.go and deploy/grants.sql, or to the exceptions here", table)
		}
	}
	execute(t, owner, `REVOKE USAGE ON SCHEMA public FROM automation_service`)
	wantProblems(t, owner, "the-gateway", "role the-gateway lacks USAGE on SCHEMA public")
	execute(t, owner, `GRANT USAGE ON SCHEMA public TO automation_service`, `REVOKE EXECUTE ON FUNCTION automation_bucket(text, text) FROM automation_service`,
		`REVOKE USAGE ON SEQUENCE user_automation_settings_id_seq FROM automation_service`)
	for _, p := range wantProblems(t, owner, "the-gateway", "role the-gateway lacks EXECUTE on FUNCTION automation_bucket(text,text)",
		"role the-gateway lacks USAGE on SEQUENCE user_automation_settings_id_seq") {
		execute(t, owner, p.SQL)
	}
	wantProblems(t, owner, "the-gateway")
}
