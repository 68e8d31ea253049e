package dbopen_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/dbopen"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPostgreSQLIsOpened(t *testing.T) {
	dsn := pgtest.Database(t)
	for _, u := range []string{dsn, strings.Replace(dsn, "postgres://", "postgresql://", 1)} {
		db, created, err := dbopen.Open(u)
		if err != nil || created {
			t.Fatalf("created %v, error %v", created, err)
		}
		defer db.Close()
		if _, err := schema.Migrate(t.Context(), db); err != nil {
			t.Error(err)
		}
		if n := db.Stats().MaxOpenConnections; n != 20 || db.DriverName() != "postgres" {
			t.Errorf("%d connections of %s", n, db.DriverName())
		}
	}
}

func TestASQLiteFileIsNewUntilSomethingIsStoredInIt(t *testing.T) {
	for name, prefix := range map[string]string{"a path": "sqlite:", "as others write it": "sqlite://"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a b%20?#ü.db")
			for i, want := range []bool{true, true, false} {
				db, created, err := dbopen.Open(prefix + file)
				if err != nil || created != want {
					t.Fatalf("opened %d times: created %v, error %v; want %v", i+1, created, err, want)
				}
				if i == 1 {
					if _, err := schema.Migrate(t.Context(), db); err != nil {
						t.Error(err)
					}
					for pragma, want := range map[string]string{"journal_mode": "wal", "busy_timeout": "5000", "synchronous": "2"} {
						var got string
						if err := db.GetContext(t.Context(), &got, `PRAGMA `+pragma); err != nil || got != want {
							t.Errorf("%s is %s, error %v; want %s", pragma, got, err, want)
						}
					}
				}
				is, err := os.Stat(file)
				if err != nil || is.Mode().Perm() != 0o600 || db.Stats().MaxOpenConnections != 1 {
					t.Errorf("file %v, error %v, %d connections", is, err, db.Stats().MaxOpenConnections)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestWhatCannotBeOpenedSaysWhyAndShowsNoPassword(t *testing.T) {
	dir := t.TempDir()
	const secret = "s3cr3t"
	for _, c := range []struct{ url, says string }{
		{"", "is empty"},
		{"mysql://u:" + secret + "@h/d", "postgres://"},
		{"sqlite:", "names no file"},
		{"sqlite::memory:", "names no file"},
		{"sqlite:" + dir, "is no file"},
		{"sqlite:" + filepath.Join(dir, "none", "a.db"), "create the directory first"},
		{"sqlite:" + filepath.Join(dir, "\x00.db"), "DATABASE_URL"},
		{"postgres://u:" + secret + "@h/d?sslmode=perhaps", "sslmode"},
		{"postgres://u:" + secret + "@h:port/d", "port"},
		{"postgres://u:" + secret + "/%zz@h/d", "special characters"},
		{"postgres://u:a@b:" + secret + "/c@h:5432/d", "special characters"},
		{"postgres://h/d?sslmode=perhaps&password=" + secret, "sslmode"},
	} {
		_, created, err := dbopen.Open(c.url)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(fmt.Sprintf("%+v", err), secret) || created {
			t.Errorf("%s: created %v, error %v; want %q", c.url, created, err, c.says)
		}
	}
}

func TestAnAddressWhereNobodyListensShowsNoPassword(t *testing.T) {
	db, _, err := dbopen.Open("postgres://u:s3cr3t@127.0.0.1:1/d?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err == nil || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("error %v", err)
	}
}

func TestEncryptionIsTheDefault(t *testing.T) {
	u, err := url.Parse(pgtest.NewProxy(t, pgtest.Database(t)).DSN())
	if err != nil {
		t.Fatal(err)
	}
	u.RawQuery = ""
	db, _, err := dbopen.Open(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err == nil || !strings.Contains(err.Error(), "SSL") {
		t.Errorf("error %v, want that the server has no SSL", err)
	}
}
