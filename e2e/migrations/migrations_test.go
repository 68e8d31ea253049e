// Package migrations_test applies the module's migrations, as automationctl exports
// them, with other migration tools.
package migrations_test

import (
	"database/sql"
	"errors"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/golang-migrate/migrate/v4"
	migratepostgres "github.com/golang-migrate/migrate/v4/database/postgres"
	_ "github.com/golang-migrate/migrate/v4/source/file"
	"github.com/jmoiron/sqlx"
	"github.com/pressly/goose/v3"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// export writes the migrations for a tool into a directory.
func export(t *testing.T, format string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./cmd/automationctl", "migrate", "sql", "--format", format, "--dir", dir)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("automationctl migrate sql: %v\n%s", err, out)
	}
	return dir
}

// expectMigrated fails the test unless the module finds its tables complete and its
// migrations recorded.
func expectMigrated(t *testing.T, pool *sqlx.DB) {
	t.Helper()
	problems, err := schema.Verify(t.Context(), pool, "")
	if err != nil || len(problems) > 0 {
		t.Errorf("Verify after the tool's migrations: problems %v, error %v; want none", problems, err)
	}
	if applied, err := schema.Migrate(t.Context(), pool); err != nil || len(applied) > 0 {
		t.Errorf("Migrate applied %v after the tool's migrations, error %v; want nothing to apply", applied, err)
	}
}

// expectEmpty fails the test unless all migrations are still to be applied.
func expectEmpty(t *testing.T, pool *sqlx.DB) {
	t.Helper()
	plan, err := schema.MakePlan(t.Context(), pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range plan.Apply {
		if m.Version == 1 {
			return
		}
	}
	t.Errorf("after the tool's down migrations the plan is %+v, want every migration to be applied", plan)
}

func TestGolangMigrate_MigratesUpAndDown(t *testing.T) {
	dir := export(t, "golang-migrate")
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		t.Fatal(err)
	}
	driver, err := migratepostgres.WithInstance(db, &migratepostgres.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := migrate.NewWithDatabaseInstance("file://"+dir, "postgres", driver)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if sourceErr, databaseErr := m.Close(); sourceErr != nil || databaseErr != nil {
			t.Errorf("closing golang-migrate: source %v, database %v", sourceErr, databaseErr)
		}
	})
	for range 2 {
		if err := m.Up(); err != nil {
			t.Fatal(err)
		}
		expectMigrated(t, pool)
		if err := m.Up(); !errors.Is(err, migrate.ErrNoChange) {
			t.Errorf("a second Up returned %v, want ErrNoChange", err)
		}
		if err := m.Down(); err != nil {
			t.Fatal(err)
		}
		expectEmpty(t, pool)
	}
}

func TestGoose_MigratesUpAndDown(t *testing.T) {
	dir := export(t, "goose")
	dsn := pgtest.Database(t)
	pool := pgtest.Open(t, dsn)
	goose.SetLogger(goose.NopLogger())
	if err := goose.SetDialect("postgres"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := goose.UpContext(t.Context(), pool.DB, dir); err != nil {
			t.Fatal(err)
		}
		expectMigrated(t, pool)
		if err := goose.DownToContext(t.Context(), pool.DB, dir, 0); err != nil {
			t.Fatal(err)
		}
		expectEmpty(t, pool)
	}
}
