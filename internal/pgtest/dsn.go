package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// socketDSN sets all options that variables such as PGPORT would otherwise set.
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

// parseEndpoint parses a DSN of the form that this package returns.
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
		return endpoint{}, fmt.Errorf("pgtest: DSN %q: want one that this package returned", dsn)
	}
	return to, nil
}

// overTCP returns the DSN with another TCP address. parseEndpoint must have accepted it.
func overTCP(dsn, address string) string {
	u, _ := url.Parse(dsn) // succeeds, as in parseEndpoint
	options := u.Query()
	options.Del("host")
	options.Del("port")
	u.Host, u.RawQuery = address, options.Encode()
	return u.String()
}

// hostPort returns host and port as libpq and PgBouncer take them: the host of a socket is its
// directory.
func (e endpoint) hostPort() (host, port string, err error) {
	if e.network == "unix" {
		dir, name := filepath.Split(e.address)
		return filepath.Clean(dir), strings.TrimPrefix(name, ".s.PGSQL."), nil
	}
	return net.SplitHostPort(e.address)
}
