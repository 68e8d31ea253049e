// Package dbopen opens the database of the example server and of the
// operators' command. A gateway brings its own pool.
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

// Open opens a PostgreSQL database as [pgpool.Open] does, or sqlite:PATH. It does
// not connect to a server. A SQLite file is created if need be, readable by its
// owner alone, in a directory that must exist; created reports that nothing has
// been stored in it yet. No error contains the password.
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
	path = strings.TrimPrefix(path, "//") // sqlite:///absolute is common, too
	if path == "" || path == ":memory:" {
		return nil, false, errors.New("dbopen: DATABASE_URL names no file; expected sqlite:PATH")
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator's own path
	created := err == nil
	if created {
		err = f.Close()
	}
	switch {
	case errors.Is(err, os.ErrExist):
		is, err := os.Stat(path)
		if err != nil || is.IsDir() {
			return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %s is not a file (%w)", path, cmp.Or(err, os.ErrInvalid))
		}
		created = is.Size() == 0 // a process ended right after creating it
	case errors.Is(err, os.ErrNotExist):
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w; create the directory first", err)
	case err != nil:
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	// One connection: SQLite has one writer anyway, and so nothing waits for locks.
	db, err := sqlx.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+
		"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, created, nil
}
