// Package schematest creates databases with the module's tables, for tests.
package schematest

import (
	"context"
	"database/sql/driver"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// Database makes a PostgreSQL database with the module's tables. It copies one that
// the test binary has migrated, which is much faster than [pgtest.Database] and
// [Migrate].
func Database(tb testing.TB) (dsn string) {
	tb.Helper()
	dsn = pgtest.Copy(tb, "migrated", func(ctx context.Context, db *sqlx.DB) error {
		_, err := schema.Migrate(ctx, db)
		return err
	})
	u, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	copies.Store(strings.TrimPrefix(u.Path, "/"), true)
	return dsn
}

var copies sync.Map // names of the databases that Database made

// Migrate does what [schema.Migrate] does, but faster. It does nothing to a database
// of [Database], so that tests may call it for every database. An empty SQLite
// database becomes a copy of one that the test binary has migrated once: with the
// race detector the migrations take half a second, and hundreds of tests need them.
func Migrate(tb testing.TB, db *sqlx.DB) {
	tb.Helper()
	if err := migrate(tb.Context(), db); err != nil {
		tb.Fatal(err)
	}
}

func migrate(ctx context.Context, db *sqlx.DB) error {
	if strings.Contains(db.DriverName(), "sqlite") {
		var tables int
		if err := db.GetContext(ctx, &tables, `SELECT count(*) FROM sqlite_master`); err != nil {
			return err
		}
		if tables == 0 {
			return copyTemplate(ctx, db)
		}
	} else {
		var name string
		if err := db.GetContext(ctx, &name, `SELECT current_database()`); err != nil {
			return err
		}
		if _, ok := copies.Load(name); ok {
			return nil
		}
	}
	_, err := schema.Migrate(ctx, db)
	return err
}

// template is a migrated SQLite database in memory, which lasts as long as conn is
// open. conn is a driver's connection, because a pool has a goroutine, and many
// packages check that their tests leave no goroutine behind.
var template struct {
	sync.Mutex
	conn driver.Conn
}

const templateURI = "file:schematest?mode=memory&cache=shared"

// copyTemplate makes the empty database db a copy of the template.
func copyTemplate(ctx context.Context, db *sqlx.DB) error {
	template.Lock()
	defer template.Unlock()
	if template.conn == nil {
		conn, err := makeTemplate(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		template.conn = conn
	}
	conn, err := db.Connx(ctx)
	if err != nil {
		return err
	}
	return errors.Join(conn.Raw(restore), conn.Close())
}

// makeTemplate migrates the template and returns a connection to it.
func makeTemplate(ctx context.Context) (driver.Conn, error) {
	pool, err := sqlx.Open("sqlite", templateURI)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	if _, err := schema.Migrate(ctx, pool); err != nil {
		return nil, err
	}
	return pool.Driver().Open(templateURI)
}

// restore makes the connection's database a copy of the template.
func restore(conn any) error {
	c, ok := conn.(interface {
		NewRestore(srcURI string) (*sqlite.Backup, error)
	})
	if !ok {
		return errors.New("schematest: the driver cannot restore a database")
	}
	b, err := c.NewRestore(templateURI)
	if err != nil {
		return err
	}
	_, err = b.Step(-1)
	return errors.Join(err, b.Finish())
}
