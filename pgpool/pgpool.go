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
// A server can accept a query and then stop responding, because its machine is
// suspended or the route to it is lost. A context's deadline does not end lib/pq's
// wait for such a server: the query returns only when the kernel gives up, after
// many minutes, and its connection is busy until then. The connections of this
// pool have a read timeout: they fail, and the pool replaces them.
//
// A gateway that already has a pool may keep it. With any pool, the module's own
// calls return by their deadlines.
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
	// ReadTimeout is how long a query waits for the server to send something;
	// each part of the response starts the wait again. Idle connections have no
	// limit. It must be longer than the slowest statement takes. 0 means 130 s,
	// because a statement of a migration may take 120 s. Negative is an error.
	ReadTimeout time.Duration
}

// Open returns a pool for a PostgreSQL database, with the driver lib/pq. It does
// not connect.
//
// dsn is a URL, postgres://user:password@host:5432/database?sslmode=verify-full,
// or a list of parameters, host=… dbname=…, as libpq documents them. Several hosts
// and target_session_attrs are supported. The scheme may name another driver, as
// in postgresql+asyncpg://, and ssl=… means sslmode=…. If neither dsn nor the
// environment's PGSSLMODE sets sslmode, it is require: connections over TCP are
// encrypted or fail.
//
// The pool has at most 20 connections, of which at most 10 are idle. A connection
// is replaced after 30 minutes. The methods of [sql.DB] change these limits.
// Errors never contain the password.
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
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("pgpool: %w", err)
	}
	c.Dialer(dialer{o.ReadTimeout})
	db := sqlx.NewDb(sql.OpenDB(connector{c}), "postgres")
	db.SetMaxOpenConns(20)
	db.SetMaxIdleConns(10)
	db.SetConnMaxLifetime(30 * time.Minute)
	return db, nil
}

// driverSuffix matches a URL's scheme with a driver's name, as SQLAlchemy has it.
var driverSuffix = regexp.MustCompile(`^(postgres(?:ql)?)\+[a-z0-9]+://`)

func parse(dsn string) (pq.Config, error) {
	dsn = driverSuffix.ReplaceAllString(dsn, "${1}://")
	if dsn == "" || hasOtherScheme(dsn) {
		return pq.Config{}, errors.New("pgpool: expected postgres://user:password@host/database or host=… dbname=…")
	}
	cfg, err := pq.NewConfig(splitHosts(dsn))
	if err != nil {
		return pq.Config{}, parseError(dsn)
	}
	if mode, ok := cfg.Runtime["ssl"]; ok {
		delete(cfg.Runtime, "ssl")
		if cfg.SSLMode, err = parseSSL(mode); err != nil {
			return pq.Config{}, err
		}
	}
	if cfg.SSLMode == "" {
		cfg.SSLMode = pq.SSLModeRequire // set explicitly, because lib/pq is about to change its default
	}
	return cfg, nil
}

// hasOtherScheme reports whether dsn is a URL of a scheme other than PostgreSQL's.
func hasOtherScheme(dsn string) bool {
	scheme, _, found := strings.Cut(dsn, "://")
	if !found || strings.ContainsAny(scheme, "= ") { // a list of parameters may contain ://
		return false
	}
	return scheme != "postgres" && scheme != "postgresql"
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

// parseSSL parses asyncpg's parameter ssl, which is a value of sslmode or "true".
func parseSSL(value string) (pq.SSLMode, error) {
	if value == "true" {
		return pq.SSLModeRequire, nil
	}
	if _, err := pq.NewConfig("sslmode='" + strings.ReplaceAll(value, "'", "") + "'"); err != nil {
		return "", fmt.Errorf("pgpool: ssl: %w", err)
	}
	return pq.SSLMode(value), nil
}

// passwords matches the passwords of a URL, each with the text before it as a
// submatch.
var passwords = regexp.MustCompile(`(://[^:@/?]*:).*@|([?&](?:ssl)?password=)[^&]*`)

// parseError returns why lib/pq rejects a DSN. The error of lib/pq may contain the
// password, so the password is replaced and the DSN parsed again.
func parseError(dsn string) error {
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

// connector adds to the errors of lib/pq what the operator can do.
type connector struct{ *pq.Connector }

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if errors.Is(err, pq.ErrSSLNotSupported) {
		return nil, fmt.Errorf("%w; add sslmode=disable if the network to the server is trusted", err)
	}
	return conn, err
}
