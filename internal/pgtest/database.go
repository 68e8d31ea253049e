package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // Open's driver "pgx"
	"github.com/jmoiron/sqlx"
	_ "github.com/lib/pq" // Open's driver "postgres"
)

// shared is the cluster of the test binary; the first test that needs it starts it.
var shared = sync.OnceValues(func() (*Cluster, error) { return newCluster(Options{}) })

// Database makes an empty database in the test binary's shared cluster, and drops it when the
// test ends, even if a client is still connected. Tests may run in parallel.
func Database(tb testing.TB) (dsn string) {
	tb.Helper()
	skipShort(tb)
	c, err := shared()
	check(tb, err)
	return c.database(tb, "template0")
}

// Copy makes a database as [Database] does, with the content that fill writes. It calls fill
// once for each name, with an empty database, and copies the result. That is many times faster
// than filling each database.
func Copy(tb testing.TB, name string, fill func(context.Context, *sqlx.DB) error) (dsn string) {
	tb.Helper()
	skipShort(tb)
	c, err := shared()
	check(tb, err)
	driver := driver(tb)
	fillOnce, _ := templates.LoadOrStore(name, sync.OnceValue(func() error { return c.fillTemplate(name, driver, fill) }))
	check(tb, fillOnce.(func() error)())
	return c.database(tb, name)
}

var templates sync.Map // by name: func() error that fills the template in the shared cluster

// fillTemplate makes a database that can be copied. It returns once no client is connected to
// it, which copying requires.
func (c *Cluster) fillTemplate(name, driver string, fill func(context.Context, *sqlx.DB) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), serverTimeout)
	defer cancel()
	if err := c.exec(c.createStatement(name, "template0")); err != nil {
		return err
	}
	db, err := sqlx.Open(driver, c.DSN(name))
	if err != nil {
		return err
	}
	if err := errors.Join(fill(ctx, db), db.Close()); err != nil {
		return fmt.Errorf("pgtest: filling %s: %w", name, err)
	}
	return c.exec(`DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = '` + name + `') LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP; END $$`)
}

// skipShort skips a test that needs PostgreSQL under go test -short, unless
// AUTOMATION_TEST_REQUIRE_POSTGRES=1.
func skipShort(tb testing.TB) {
	tb.Helper()
	if testing.Short() && os.Getenv("AUTOMATION_TEST_REQUIRE_POSTGRES") != "1" {
		tb.Skip("pgtest: needs PostgreSQL; run without -short")
	}
}

// Database makes an empty database in this cluster, which is removed with the cluster.
func (c *Cluster) Database(tb testing.TB) (dsn string) {
	tb.Helper()
	return c.database(tb, "template0")
}

var databases atomic.Int64

// database makes a database that is a copy of the template.
func (c *Cluster) database(tb testing.TB, template string) string {
	tb.Helper()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), databases.Add(1))
	check(tb, c.exec(c.createStatement(name, template)))
	if c.tb == nil {
		tb.Cleanup(func() {
			if err := c.exec("DROP DATABASE " + name + " WITH (FORCE)"); err != nil {
				tb.Error(err)
			}
		})
	}
	return c.DSN(name)
}

// createStatement returns the statement that copies a template.
func (c *Cluster) createStatement(name, template string) string {
	statement := "CREATE DATABASE " + name + " TEMPLATE " + template
	if c.major >= 15 {
		statement += " STRATEGY file_copy" // without fsync faster than the WAL
	}
	return statement
}

// exec runs one statement over a new connection.
func (c *Cluster) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), serverTimeout)
	defer cancel()
	db, err := sql.Open("postgres", c.DSN(superuser))
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("pgtest: %s: %w", statement, err)
	}
	return nil
}

// Open opens dsn with the driver that AUTOMATION_TEST_DRIVER names, "postgres" (lib/pq, the
// default) or "pgx", and closes it when the test ends. It does not connect yet.
func Open(tb testing.TB, dsn string) *sqlx.DB {
	tb.Helper()
	db, err := sqlx.Open(driver(tb), dsn)
	check(tb, err)
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Logf("pgtest: close: %v", err) // such as of a connection whose server has ended
		}
	})
	return db
}

// driver returns the name of the driver that AUTOMATION_TEST_DRIVER chooses.
func driver(tb testing.TB) string {
	tb.Helper()
	name := os.Getenv("AUTOMATION_TEST_DRIVER")
	switch name {
	case "":
		return "postgres"
	case "postgres", "pgx":
	default:
		tb.Fatalf("pgtest: AUTOMATION_TEST_DRIVER=%q: want postgres or pgx", name)
	}
	return name
}

// check fails the test on an error. If a program is not installed it skips the test instead,
// unless AUTOMATION_TEST_REQUIRE_POSTGRES=1.
func check(tb testing.TB, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	if errors.Is(err, errMissing) && os.Getenv("AUTOMATION_TEST_REQUIRE_POSTGRES") != "1" {
		tb.Skip(err)
	}
	tb.Fatal(err)
}
