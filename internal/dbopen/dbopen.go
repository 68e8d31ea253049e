// Package dbopen opens the database of the example server and of the
// operators' command. A gateway brings its own pool.
package dbopen

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// silence is how long a server may say nothing while it is asked something. A
// context's deadline does not end lib/pq's wait for a frozen server; this does.
const silence = 30 * time.Second

// Open opens postgres://… or postgresql://… through lib/pq, or sqlite:PATH.
// A server is not asked yet; a SQLite file is created if need be, readable by
// its owner alone, and created tells so. No error shows the password.
func Open(databaseURL string) (db *sqlx.DB, created bool, err error) {
	switch {
	case databaseURL == "":
		return nil, false, errors.New("dbopen: DATABASE_URL is empty; expected postgres://… or sqlite:PATH")
	case strings.HasPrefix(databaseURL, "sqlite:"):
		return openSQLite(strings.TrimPrefix(databaseURL, "sqlite:"))
	case strings.HasPrefix(databaseURL, "postgres://"), strings.HasPrefix(databaseURL, "postgresql://"):
		db, err = openPostgres(databaseURL)
		return db, false, err
	}
	return nil, false, errors.New("dbopen: DATABASE_URL is neither postgres://… nor sqlite:PATH")
}

func openPostgres(dsn string) (*sqlx.DB, error) {
	if u, err := url.Parse(dsn); err == nil && u.Query().Get("sslmode") == "" && os.Getenv("PGSSLMODE") == "" {
		// lib/pq's own default, in words, because that is about to change.
		q := u.Query()
		q.Set("sslmode", "require")
		u.RawQuery = q.Encode()
		dsn = u.String()
	}
	connector, err := pq.NewConnector(dsn)
	if err != nil {
		return nil, errors.New("dbopen: DATABASE_URL is no valid PostgreSQL URL") // err may repeat the password
	}
	connector.Dialer(dialer{})
	db := sqlx.NewDb(sql.OpenDB(connector), "postgres")
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(10)
	db.SetConnMaxLifetime(30 * time.Minute)
	return db, nil
}

func openSQLite(path string) (*sqlx.DB, bool, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // the operator's own path
	created := err == nil
	if created {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
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

// dialer makes connections whose reads end.
type dialer struct{}

func (dialer) Dial(network, address string) (net.Conn, error) {
	return dialer{}.DialTimeout(network, address, silence)
}

func (dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return dialer{}.DialContext(ctx, network, address)
}

func (dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{c}, nil
}

// conn gives up on a server that stays silent after it was asked something. A
// connection that rests in the pool is not read from, so it may rest.
type conn struct{ net.Conn }

func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		// More of the answer may take as long again.
		err = c.SetReadDeadline(time.Now().Add(silence))
	}
	return n, err
}
