// Package pgtest gives tests throwaway PostgreSQL clusters, and simulates the faults of real
// ones.
//
// The smallest test is two lines. Its cluster starts with the test binary's first call, serves
// the whole binary, and is removed when the binary ends, even by a signal:
//
//	dsn := pgtest.Database(t)      // a fresh, empty database
//	db := pgtest.Open(t, dsn)      // by lib/pq, or by pgx: AUTOMATION_TEST_DRIVER
//
// For faults, [Start] makes a cluster for one test that can be killed, frozen, started again
// and made a standby; [NewProxy] sits between a client and a server, loses replies at message
// boundaries, adds latency and counts round trips; [PgBouncer] puts a transaction pooler in
// between. All three take and return DSNs, so they combine in any order.
//
// # What it needs
//
// PostgreSQL's server binaries (13 or newer), first on PATH and then where packages put them.
// Without them a test is skipped and says how to install them, or fails if
// AUTOMATION_TEST_REQUIRE_POSTGRES=1. PostgreSQL does not run as root, so root's servers run
// as nobody; any other user runs them as itself. go test -short skips these tests as well,
// unless AUTOMATION_TEST_REQUIRE_POSTGRES=1.
//
// # What it leaves behind
//
// /dev/shm/pgtest-UID, or /tmp/pgtest-UID where there is little room in memory, private to the
// servers' user: one template per PostgreSQL version, which saves each cluster its initdb, and
// nothing else. A shell guards each server: when the test binary has ended, even by kill -9, it
// stops the server and removes its files. So TestMain has nothing to call, and no goroutine is
// left for goleak to find.
//
// Only _test.go files may import this package.
package pgtest
