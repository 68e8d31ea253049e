package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// socketDSN leaves nothing to the environment, where PGPORT and its like could change it.
func socketDSN(dir, database string) string {
	return (&url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Path:     "/" + database,
		RawQuery: url.Values{"host": {dir}, "port": {"5432"}, "sslmode": {"disable"}}.Encode(),
	}).String()
}

// An endpoint is where a server listens, and one of its databases.
type endpoint struct{ network, address, database string }

// parseEndpoint reads a DSN as this package writes them.
func parseEndpoint(dsn string) (endpoint, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return endpoint{}, fmt.Errorf("pgtest: parse DSN: %w", err)
	}
	to := endpoint{network: "tcp", address: u.Host, database: strings.TrimPrefix(u.Path, "/")}
	if dir := u.Query().Get("host"); strings.HasPrefix(dir, "/") {
		to.network, to.address = "unix", dir+"/.s.PGSQL."+u.Query().Get("port")
	}
	if u.Scheme != "postgres" || to.address == "" || to.database == "" {
		return endpoint{}, fmt.Errorf("pgtest: DSN %q: want one that this package gave", dsn)
	}
	return to, nil
}

// overTCP is a DSN that parseEndpoint takes, moved to another address.
func overTCP(dsn, address string) string {
	u, _ := url.Parse(dsn) // parseEndpoint took it
	options := u.Query()
	options.Del("host")
	options.Del("port")
	u.Host, u.RawQuery = address, options.Encode()
	return u.String()
}

// hostPort is what libpq and PgBouncer call them: a socket's host is its directory.
func (e endpoint) hostPort() (host, port string, err error) {
	if e.network == "unix" {
		dir, name := filepath.Split(e.address)
		return filepath.Clean(dir), strings.TrimPrefix(name, ".s.PGSQL."), nil
	}
	return net.SplitHostPort(e.address)
}
