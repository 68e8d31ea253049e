package dbopen_test

import (
	"fmt"
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

func TestOpen_OpensPostgreSQL(t *testing.T) {
	db, created, err := dbopen.Open(pgtest.Database(t))
	if err != nil || created {
		t.Fatalf("created %v, error %v; want false, none", created, err)
	}
	defer db.Close()
	if err := db.PingContext(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpen_CreatesASQLiteFile(t *testing.T) {
	for name, prefix := range map[string]string{"sqlite:PATH": "sqlite:", "sqlite://PATH": "sqlite://"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a b%20?#ü.db")
			for i, want := range []bool{true, true, false} {
				db, created, err := dbopen.Open(prefix + file)
				if err != nil || created != want {
					t.Fatalf("Open number %d: created %v, error %v; want %v", i+1, created, err, want)
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
				info, err := os.Stat(file)
				if err != nil || info.Mode().Perm() != 0o600 || db.Stats().MaxOpenConnections != 1 {
					t.Errorf("file %v, error %v, at most %d connections; want mode 0600 and 1 connection", info, err, db.Stats().MaxOpenConnections)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestOpen_SaysWhyItCannotOpenADatabase(t *testing.T) {
	dir := t.TempDir()
	const secret = "s3cr3t"
	for _, c := range []struct{ url, want string }{
		{"", "is empty"},
		{"mysql://u:" + secret + "@h/d", "sqlite:PATH"},
		{"sqlite:", "has no file name"},
		{"sqlite::memory:", "has no file name"},
		{"sqlite:" + dir, "is not a file"},
		{"sqlite:" + filepath.Join(dir, "none", "a.db"), "create the directory first"},
		{"sqlite:" + filepath.Join(dir, "\x00.db"), "DATABASE_URL"},
		{"postgres://u:" + secret + "@h/d?sslmode=perhaps", "sslmode"},
	} {
		_, created, err := dbopen.Open(c.url)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(fmt.Sprintf("%+v", err), secret) || created {
			t.Errorf("%s: created %v, error %v; want one that contains %q and not the password", c.url, created, err, c.want)
		}
	}
}
