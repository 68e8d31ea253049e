// Package dbopen opens the database of the example server and of the
// operators' command. A gateway brings its own pool.
package dbopen

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// silence is how long a server may say nothing while it is asked something. A
// context's deadline does not end lib/pq's wait for a frozen server; this does.
// It is longer than the two minutes that a statement of a migration may take.
const silence = 130 * time.Second

// Open opens postgres://… or postgresql://… through lib/pq, or sqlite:PATH.
// A server is not asked yet; a SQLite file is created if need be, readable by
// its owner alone, in a directory that must exist. Created tells that nothing
// has been stored in the file yet. No error shows the password.
func Open(databaseURL string) (db *sqlx.DB, created bool, err error) {
	switch {
	case databaseURL == "":
		return nil, false, errors.New("dbopen: DATABASE_URL is empty; expected postgres://… or sqlite:PATH")
	case strings.HasPrefix(databaseURL, "sqlite:"):
		return openSQLite(strings.TrimPrefix(databaseURL, "sqlite:"))
	case strings.HasPrefix(databaseURL, "postgres://"), strings.HasPrefix(databaseURL, "postgresql://"):
		db, err = openPostgres(databaseURL, silence)
		return db, false, err
	}
	return nil, false, errors.New("dbopen: DATABASE_URL is neither postgres://… nor sqlite:PATH")
}

func openPostgres(dsn string, silence time.Duration) (*sqlx.DB, error) {
	if u, err := url.Parse(dsn); err == nil && u.Query().Get("sslmode") == "" && os.Getenv("PGSSLMODE") == "" {
		// lib/pq's own default, in words, because that is about to change.
		q := u.Query()
		q.Set("sslmode", "require")
		u.RawQuery = q.Encode()
		dsn = u.String()
	}
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, complaint(dsn)
	}
	connector.Dialer(dialer{silence})
	db := sqlx.NewDb(sql.OpenDB(connector), "postgres")
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(10)
	db.SetConnMaxLifetime(30 * time.Minute)
	return db, nil
}

var secrets = regexp.MustCompile(`(://[^:@/?]*:).*@|([?&](?:ssl)?password=)[^&]*`)

// complaint says what is wrong with a URL that lib/pq refuses. Its errors may
// repeat the password, so it is asked again about the URL without.
func complaint(dsn string) error {
	shown := secrets.ReplaceAllStringFunc(dsn, func(m string) string {
		if strings.HasSuffix(m, "@") {
			return secrets.ReplaceAllString(m, "${1}xxxxx@")
		}
		return secrets.ReplaceAllString(m, "${2}xxxxx")
	})
	if _, err := pq.NewConnector(shown); err != nil {
		return fmt.Errorf("dbopen: DATABASE_URL is no PostgreSQL URL: %w", err)
	}
	return errors.New("dbopen: DATABASE_URL is no PostgreSQL URL: write the special characters of its password as %XX, such as %40 for @")
}

func openSQLite(path string) (*sqlx.DB, bool, error) {
	path = strings.TrimPrefix(path, "//") // sqlite:///absolute, as others write it
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
			return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %s is no file (%w)", path, cmp.Or(err, os.ErrInvalid))
		}
		created = is.Size() == 0 // somebody stopped right after creating it
	case errors.Is(err, os.ErrNotExist):
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w; create the directory first", err)
	case err != nil:
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	// One connection: SQLite has one writer anyway, and nobody waits for locks.
	db, err := sqlx.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+
		"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return nil, false, fmt.Errorf("dbopen: DATABASE_URL: %w", err)
	}
	db.SetMaxOpenConns(1)
	return db, created, nil
}

// dialer makes connections that give up on a server after so much silence.
type dialer struct{ silence time.Duration }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to := net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c, err := to.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, silence: d.silence}, nil
}

// conn gives up on a server that stays silent after it was asked something. A
// connection that rests in the pool is not read from, so it may rest; one that
// listens is, and belongs elsewhere.
type conn struct {
	net.Conn
	silence time.Duration
	limit   time.Time // of the owner's own, from connect_timeout; it wins
}

func (c *conn) SetDeadline(t time.Time) error {
	c.limit = t
	return c.Conn.SetDeadline(t)
}

func (c *conn) until() time.Time {
	t := time.Now().Add(c.silence)
	if !c.limit.IsZero() && c.limit.Before(t) {
		return c.limit
	}
	return t
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.Conn.SetDeadline(c.until()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		// More of the answer may take as long again.
		err = c.SetReadDeadline(c.until())
	}
	return n, err
}
