// Package dbopen opens the database for the example server and for automationctl.
// A gateway passes its own pool instead.
package dbopen

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/MorpheusAIs/gateway-automation/pgpool"
)

// Open opens a PostgreSQL database as [pgpool.Open] does, or a SQLite file as
// sqlite:PATH. It does not connect to a server. If the SQLite file does not exist, Open
// creates it, readable by its owner alone, in a directory that must exist. created is
// true for a SQLite file that is new or empty. No error contains the password.
func Open(databaseURL string) (db *sqlx.DB, created bool, err error) {
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
		return openSQLite(path)
	}
	if databaseURL == "" {
		return nil, false, errors.New("dbopen: DATABASE_URL is empty; expected postgres://… or sqlite:PATH")
	}
	if scheme, _, isURL := strings.Cut(databaseURL, "://"); isURL && !strings.HasPrefix(scheme, "postgres") && !strings.Contains(scheme, "=") {
		return nil, false, errors.New("dbopen: DATABASE_URL is neither postgres://… nor sqlite:PATH")
	}
	db, err = pgpool.Open(databaseURL, pgpool.Options{})
	if err != nil {
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	return db, false, nil
}

func openSQLite(path string) (*sqlx.DB, bool, error) {
	path = strings.TrimPrefix(path, "//") // other tools write sqlite:///absolute
	if path == "" || path == ":memory:" {
		return nil, false, errors.New("dbopen: DATABASE_URL has no file name; expected sqlite:PATH")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator's own path
	created := err == nil
	if created {
		err = f.Close()
	}
	switch {
	case errors.Is(err, os.ErrExist):
		info, err := os.Stat(path)
		if err != nil || info.IsDir() {
			return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %s is not a file (%w)", path, cmp.Or(err, os.ErrInvalid))
		}
		created = info.Size() == 0 // another process created it and stored nothing
	case errors.Is(err, os.ErrNotExist):
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w; create the directory first", err)
	case err != nil:
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	// SQLite has one writer at a time. With one connection nothing has to wait for locks.
	db, err := sqlx.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+
		"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, created, nil
}
