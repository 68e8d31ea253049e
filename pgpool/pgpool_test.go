package pgpool_test

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/pgpool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ExampleOpen() {
	db, err := pgpool.Open("postgresql+asyncpg://gateway:secret@db.internal/gateway", pgpool.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	db.SetMaxOpenConns(50)
	fmt.Println(db.DriverName(), db.Stats().MaxOpenConnections)
	// Output: postgres 50
}

func TestOpen_AcceptsTheDSNsInUse(t *testing.T) {
	unsetSSLMode(t)
	direct := pgtest.Database(t)
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	socket, database := u.Query().Get("host"), strings.TrimPrefix(u.Path, "/")
	proxied, err := url.Parse(pgtest.NewProxy(t, direct).DSN())
	if err != nil {
		t.Fatal(err)
	}
	for name, dsn := range map[string]string{
		"a URL":                    direct,
		"a URL of postgresql":      strings.Replace(direct, "postgres://", "postgresql://", 1),
		"a URL for asyncpg":        strings.Replace(direct, "postgres://", "postgresql+asyncpg://", 1),
		"a URL for psycopg2":       strings.Replace(direct, "postgres://", "postgres+psycopg2://", 1),
		"asyncpg's ssl parameter":  "postgresql+asyncpg://postgres@" + proxied.Host + "/" + database + "?ssl=disable",
		"a URL with several hosts": "postgres://postgres@127.0.0.1:1," + proxied.Host + "/" + database + "?sslmode=disable&target_session_attrs=read-write",
		"a port of one host only":  "postgres://postgres@nowhere.invalid," + proxied.Host + "/" + database + "?sslmode=disable",
		"parameters":               "host=" + socket + " user=postgres dbname=" + database,
		"quoted parameters":        "host='" + socket + "' user='postgres' dbname='" + database + "' application_name='a b://c'",
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, dsn)
			var got string
			if err := db.GetContext(t.Context(), &got, `SELECT current_database()`); err != nil || got != database {
				t.Errorf("connected to %q, %v; want %q", got, err, database)
			}
			if n := db.Stats().MaxOpenConnections; n != 20 || db.DriverName() != "postgres" {
				t.Errorf("at most %d connections, driver %s; want 20 and postgres", n, db.DriverName())
			}
		})
	}
}

// unsetSSLMode removes PGSSLMODE for the test. An empty one would not do, because
// lib/pq rejects it.
func unsetSSLMode(t *testing.T) {
	t.Helper()
	t.Setenv("PGSSLMODE", "") // restores the old value after the test
	if err := os.Unsetenv("PGSSLMODE"); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dsn string) *sqlx.DB {
	t.Helper()
	db, err := pgpool.Open(dsn, pgpool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestOpen_ErrorsOfInvalidDSNsDoNotShowThePassword(t *testing.T) {
	const secret = "s3cr3t"
	for _, c := range []struct{ dsn, want string }{
		{"", "expected postgres://"},
		{"mysql://u:" + secret + "@h/d", "expected postgres://"},
		{"sqlite:a.db://", "expected postgres://"},
		{secret, "expected host=… dbname=…"},
		{"postgres://u:" + secret + "@h/d?sslmode=perhaps", "sslmode"},
		{"postgres://u:" + secret + "@h:port/d", "port"},
		{"postgres://u:" + secret + "/%zz@h/d", "special characters"},
		{"postgres://u:a@b:" + secret + "/c@h:5432/d", "special characters"},
		{"postgres://h/d?sslmode=perhaps&password=" + secret, "sslmode"},
		{"postgresql+asyncpg://u:" + secret + "@h/d?ssl=perhaps", "sslmode"},
		{"host=h password='" + secret, "single quotes"},
	} {
		_, err := pgpool.Open(c.dsn, pgpool.Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(fmt.Sprintf("%+v", err), secret) {
			t.Errorf("Open(%q): error %v, want one with %q and without the password", c.dsn, err, c.want)
		}
	}
}

func TestOpen_RejectsANegativeReadTimeout(t *testing.T) {
	if _, err := pgpool.Open("postgres://h/d", pgpool.Options{ReadTimeout: -time.Second}); err == nil {
		t.Error("Open with a negative ReadTimeout returned no error")
	}
}

func TestOpen_DoesNotShowThePasswordWhenItCannotConnect(t *testing.T) {
	db := open(t, "postgres://u:s3cr3t@127.0.0.1:1/d?sslmode=disable")
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("Ping of a closed port: error %v, want one without the password", err)
	}
}

func TestOpen_EncryptsByDefault(t *testing.T) {
	u, err := url.Parse(pgtest.NewProxy(t, pgtest.Database(t)).DSN())
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = ""
	unsetSSLMode(t)
	if err := open(t, u.String()).PingContext(t.Context()); err == nil || !strings.Contains(err.Error(), "add sslmode=disable") {
		t.Errorf("Ping of a server without TLS: error %v, want one that says to add sslmode=disable", err)
	}
	t.Setenv("PGSSLMODE", "disable")
	if err := open(t, u.String()).PingContext(t.Context()); err != nil {
		t.Errorf("with PGSSLMODE=disable: %v", err)
	}
}
