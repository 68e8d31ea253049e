package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// maxShownLog bounds how much of PgBouncer's log a failed test shows, in bytes.
const maxShownLog = 4 << 10

// PgBouncer starts a PgBouncer in transaction mode in front of the server of dsn until the test
// ends, and returns the DSN of the same database through it. The pool has up to 20 connections
// to the server, so different backends serve one client's statements. For pgx the DSN sets
// default_query_exec_mode=exec, because named prepared statements fail behind a pooler. Without
// PgBouncer the test is skipped or fails, as it is without PostgreSQL. A failed test shows the end
// of PgBouncer's log.
func PgBouncer(tb testing.TB, dsn string) string {
	tb.Helper()
	to, err := parseEndpoint(dsn)
	check(tb, err)
	program, err := findPgBouncer("/usr/sbin/pgbouncer")
	check(tb, err)
	o, err := serverOwner(false)
	check(tb, err)
	dir := o.newPath("pgbouncer")
	check(tb, o.run("mkdir", "-m", "700", dir))
	s, err := startPgBouncer(o, program, dir, to)
	if err != nil {
		check(tb, errors.Join(err, os.RemoveAll(dir)))
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			text, err := os.ReadFile(filepath.Join(dir, "log"))
			tb.Logf("the end of PgBouncer's log, error %v:\n%s", err, text[max(0, len(text)-maxShownLog):])
		}
		if err := errors.Join(s.end(syscall.SIGTERM, s.pid), os.RemoveAll(dir)); err != nil {
			tb.Error(err)
		}
	})
	pooledDSN := socketDSN(dir, to.database)
	if driver(tb) == "pgx" {
		pooledDSN += "&default_query_exec_mode=exec"
	}
	return pooledDSN
}

// restartScript runs a program, and runs it again whenever it ends by itself, as a service
// manager does: PgBouncer 1.18 exits ("bad client state: 0") if a client disconnects before its
// cancel request was forwarded. SIGTERM ends both.
const restartScript = `
trap 'kill "$program"; wait "$program"; exit 0' TERM
while :; do
	"$@" &
	program=$!
	wait "$program"
	echo "the program ended with status $?, it is started again" >&2
	sleep 0.1
done
`

func startPgBouncer(o owner, program, dir string, to endpoint) (*server, error) {
	host, port, err := to.hostPort()
	if err != nil {
		return nil, err
	}
	// lib/pq sends extra_float_digits at start-up, which PgBouncer refuses by default.
	config := fmt.Sprintf(`[databases]
* = host=%s port=%s user=%s
[pgbouncer]
unix_socket_dir = %s
listen_port = 5432
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
`, host, port, superuser, dir)
	ini, log := filepath.Join(dir, "pgbouncer.ini"), filepath.Join(dir, "log")
	if err := os.WriteFile(ini, []byte(config), 0o644); err != nil { // readable for the owner; the directory is private
		return nil, err
	}
	s, err := launch(o, dir, "TERM", log, "/bin/sh", "-c", restartScript, "restart", program, ini)
	if err != nil {
		return nil, err
	}
	if err := s.waitReady(socketDSN(dir, to.database), log); err != nil {
		return nil, errors.Join(err, s.end(syscall.SIGTERM, s.pid))
	}
	return s, nil
}

// findPgBouncer looks on PATH and then at offPath: where Debian installs it is not on users' PATHs.
func findPgBouncer(offPath string) (string, error) {
	if program, err := exec.LookPath("pgbouncer"); err == nil {
		return program, nil
	}
	if isExecutable(offPath) {
		return offPath, nil
	}
	return "", fmt.Errorf("pgtest: no pgbouncer on PATH or at %s: %w; try apt-get install pgbouncer, or brew install pgbouncer", offPath, errMissing)
}
