package schema_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// python returns Debian's interpreter, for which Debian packages alembic, SQLAlchemy and
// psycopg2. Without them it skips the test, or fails it if
// AUTOMATION_TEST_REQUIRE_POSTGRES is 1.
func python(t *testing.T) string {
	t.Helper()
	const program = "/usr/bin/python3"
	_, err := exec.LookPath("alembic")
	if err = errors.Join(err, exec.CommandContext(t.Context(), program, "-c", "import alembic, sqlalchemy, psycopg2").Run()); err != nil {
		if os.Getenv("AUTOMATION_TEST_REQUIRE_POSTGRES") == "1" {
			t.Fatalf("alembic is not installed; Debian has it in the packages alembic and python3-psycopg2")
		}
		t.Skip("alembic is not installed; Debian has it in the packages alembic and python3-psycopg2")
	}
	return program
}

// pythonURL returns a DSN in SQLAlchemy's format.
func pythonURL(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Scheme = "postgresql+psycopg2"
	return u.String()
}

func TestMigrate_LeavesSQLAlchemyWorking(t *testing.T) {
	t.Parallel()
	program := python(t)
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	gateway := func(step string) string {
		return runCommand(t, program, "testdata/gateway.py", pythonURL(t, dsn), step)
	}
	gateway("create")
	before := append(describeTable(t, pool, "user_automation_settings"), describeTable(t, pool, "feature_flags")...)
	migrate(t, pool)
	wantProblems(t, pool, "")
	store := newSettings(t, pool)
	if one, err := store.Get(t.Context(), "1"); err != nil || !one.IsEnabled {
		t.Errorf("user 1 has the settings %+v, error %v; want automation on", one, err)
	}
	if _, err := store.Put(t.Context(), "5", settings.Values{SessionDuration: time.Hour}, settings.Always); err != nil {
		t.Error(err)
	}
	want := "OK select\nOK insert\nOK update\nOK relationship\nOK cascade\nOK flag\n"
	if diff := cmp.Diff(want, gateway("work")); diff != "" {
		t.Errorf("the Python gateway next to the module (-want +got)\n%s", diff)
	}
	if three, err := store.Get(t.Context(), "3"); err != nil || !three.IsEnabled || time.Since(three.CreatedAt).Abs() > 20*time.Minute {
		t.Errorf("the settings that SQLAlchemy inserted are read as %+v, error %v; want on and the current time", three, err)
	}
	execute(t, pool, `DELETE FROM user_automation_settings WHERE user_id IN (3, 5)`, `INSERT INTO users (id, name) VALUES (1, 'user 1')`,
		`INSERT INTO user_automation_settings (id, user_id, is_enabled, session_duration) VALUES (1, 1, true, 3600)`,
		`UPDATE user_automation_settings SET created_at = NULL, updated_at = NULL`)
	down(t, pool)
	if diff := cmp.Diff(before, append(describeTable(t, pool, "user_automation_settings"), describeTable(t, pool, "feature_flags")...)); diff != "" {
		t.Errorf("the restored tables (-before +after)\n%s", diff)
	}
}

// The test applies the revision of docs/runbook.md in a project that `alembic init` created.
func TestMigrations_WorkAsAnAlembicRevision(t *testing.T) {
	t.Parallel()
	python(t)
	text, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(text), "```python\n")
	code, _, found := strings.Cut(code, "```")
	if !found {
		t.Fatal("docs/runbook.md has no revision in Python")
	}
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	dir := t.TempDir()
	alembic := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "alembic", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("alembic %q: %v\n%s", args, err, out)
		}
	}
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	alembic("init", "migrations")
	ini, err := os.ReadFile(filepath.Join(dir, "alembic.ini"))
	if err != nil {
		t.Fatal(err)
	}
	write("alembic.ini", strings.Replace(string(ini), "sqlalchemy.url = driver://user:pass@localhost/dbname",
		"sqlalchemy.url = "+strings.ReplaceAll(pythonURL(t, dsn), "%", "%%"), 1))
	write("migrations/versions/0001_users.py", "revision, down_revision = 'users', None\nfrom alembic import op\n"+
		"def upgrade(): op.execute('CREATE TABLE users (id integer PRIMARY KEY)')\ndef downgrade(): op.execute('DROP TABLE users')\n")
	write("migrations/versions/0002_automation.py", strings.Replace(code, "<your last revision>", "users", 1))
	for _, direction := range []string{"up", "down"} {
		for i, text := range readFiles(t, pool, direction) {
			write(fmt.Sprintf("migrations/automation/%04d.%s.sql", i, direction), text)
		}
	}
	for range 2 {
		alembic("upgrade", "head")
		wantProblems(t, pool, "")
		if applied := migrate(t, pool); len(applied) != 0 {
			t.Errorf("Migrate after alembic applied %v, want nothing", applied)
		}
		alembic("downgrade", "users")
		if left := listObjects(t, pool); !cmp.Equal(left, []string{"relation alembic_version", "relation alembic_version_pkc", "relation users", "relation users_pkey"}) {
			t.Errorf("after alembic downgrade the database has %q, want only alembic's table and users", left)
		}
		if p := makePlan(t, pool); len(p.Apply) == 0 {
			t.Errorf("plan %+v after alembic downgrade, want all migrations", p)
		}
	}
}
