// Package pgpool opens a pool of PostgreSQL connections that survive a frozen
// server.
//
//	db, err := pgpool.Open(os.Getenv("DATABASE_URL"), pgpool.Options{})
//	if err != nil {
//		return err
//	}
//	defer db.Close()
//	m, err := automation.New(cfg, db, identify, automation.Options{})
//
// A context's deadline does not end lib/pq's wait for a server that accepted a
// query and then stopped answering, such as a suspended machine or a lost
// route: the query returns when the kernel gives up, after many minutes, and
// its connection is busy for as long. The connections of this pool have a read
// deadline, so they fail instead, and the pool replaces them.
//
// A gateway that has a pool already may keep it. The module's own calls return
// by their deadlines with every pool.
package pgpool

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// Options configure a pool. The zero value works.
type Options struct {
	// ReadTimeout is how long the server may be silent while a query waits for
	// its answer; every part of the answer starts it again. Idle connections
	// have no limit. It must be longer than the slowest statement runs. 0 means
	// 130 s, because a statement of a migration may run for 120 s.
	ReadTimeout time.Duration
}

// Open returns a pool for a PostgreSQL database, by lib/pq. It does not connect.
//
// Dsn is a URL, postgres://user:password@host:5432/database?sslmode=verify-full,
// or a list of parameters, host=… dbname=…, as libpq documents them; several
// hosts and target_session_attrs are supported. The scheme may name another
// driver, such as postgresql+asyncpg://, and ssl=… stands for sslmode=….
// Without sslmode, and without PGSSLMODE in the environment, connections over
// TCP are encrypted (sslmode=require) or fail.
//
// The pool has at most 20 connections, 10 of them idle, which are replaced
// after 30 minutes; the methods of [sql.DB] change that. Errors never contain
// the password.
func Open(dsn string, o Options) (*sqlx.DB, error) {
	if o.ReadTimeout < 0 {
		return nil, fmt.Errorf("pgpool: ReadTimeout: %v is negative", o.ReadTimeout)
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 130 * time.Second
	}
	cfg, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	inner, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("pgpool: %w", err)
	}
	inner.Dialer(dialer{o.ReadTimeout})
	db := sqlx.NewDb(sql.OpenDB(connector{inner}), "postgres")
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(10)
	db.SetConnMaxLifetime(30 * time.Minute)
	return db, nil
}

// driverSuffix is what SQLAlchemy and others add to a URL's scheme.
var driverSuffix = regexp.MustCompile(`^(postgres(?:ql)?)\+[a-z0-9]+://`)

func parse(dsn string) (pq.Config, error) {
	dsn = driverSuffix.ReplaceAllString(dsn, "${1}://")
	if scheme, _, found := strings.Cut(dsn, "://"); dsn == "" || found && scheme != "postgres" && scheme != "postgresql" && !strings.ContainsAny(scheme, "= ") {
		return pq.Config{}, errors.New("pgpool: expected postgres://user:password@host/database or host=… dbname=…")
	}
	cfg, err := pq.NewConfig(splitHosts(dsn))
	if err != nil {
		return pq.Config{}, withoutPassword(dsn)
	}
	if mode, ok := cfg.Runtime["ssl"]; ok {
		delete(cfg.Runtime, "ssl")
		if cfg.SSLMode, err = parseSSL(mode); err != nil {
			return pq.Config{}, err
		}
	}
	if cfg.SSLMode == "" {
		cfg.SSLMode = pq.SSLModeRequire // lib/pq's default today, in words, because it is about to change
	}
	return cfg, nil
}

// splitHosts moves the hosts and ports of a URL with several of them, such as
// postgres://a:5432,b:5432/d, into its parameters, where lib/pq expects them.
func splitHosts(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil || !strings.Contains(u.Host, ",") {
		return dsn
	}
	var hosts, ports []string
	for address := range strings.SplitSeq(u.Host, ",") {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			host, port = address, "5432"
		}
		hosts, ports = append(hosts, host), append(ports, port)
	}
	q := u.Query()
	q.Set("host", strings.Join(hosts, ","))
	q.Set("port", strings.Join(ports, ","))
	u.Host, u.RawQuery = "", q.Encode()
	return u.String()
}

// parseSSL reads asyncpg's parameter, which has sslmode's values and true.
func parseSSL(value string) (pq.SSLMode, error) {
	if value == "true" {
		return pq.SSLModeRequire, nil
	}
	if _, err := pq.NewConfig("sslmode='" + strings.ReplaceAll(value, "'", "") + "'"); err != nil {
		return "", fmt.Errorf("pgpool: ssl: %w", err)
	}
	return pq.SSLMode(value), nil
}

var passwords = regexp.MustCompile(`(://[^:@/?]*:).*@|([?&](?:ssl)?password=)[^&]*`)

// withoutPassword returns what is wrong with a DSN that lib/pq refuses. Lib/pq's
// error may repeat the password, so lib/pq is asked about the DSN without it.
func withoutPassword(dsn string) error {
	if _, err := url.Parse(dsn); err != nil || strings.Contains(dsn, "://") {
		dsn = passwords.ReplaceAllStringFunc(dsn, func(m string) string {
			if strings.HasSuffix(m, "@") {
				return passwords.ReplaceAllString(m, "${1}xxxxx@")
			}
			return passwords.ReplaceAllString(m, "${2}xxxxx")
		})
		if _, err := pq.NewConfig(dsn); err != nil {
			return fmt.Errorf("pgpool: not a PostgreSQL URL: %w", err)
		}
		return errors.New("pgpool: not a PostgreSQL URL: write the special characters of the password as %XX, such as %40 for @")
	}
	return errors.New("pgpool: not a list of PostgreSQL parameters: expected host=… dbname=…, values with spaces in single quotes")
}

// connector says what to do where lib/pq says only what is wrong.
type connector struct{ *pq.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if errors.Is(err, pq.ErrSSLNotSupported) {
		return nil, fmt.Errorf("%w; add sslmode=disable where the network between is trusted", err)
	}
	return conn, err
}
