// Package pgtest starts throwaway PostgreSQL clusters for tests, and simulates the faults of real
// clusters.
//
// The smallest test is two lines. Its cluster starts with the test binary's first call, serves
// the whole binary, and is removed when the binary ends, even if a signal ends it:
//
//	dsn := pgtest.Database(t)      // a fresh, empty database
//	db := pgtest.Open(t, dsn)      // with lib/pq, or with pgx if AUTOMATION_TEST_DRIVER=pgx
//
// For faults, [Start] makes a cluster for one test that can be killed, frozen, started again
// and made a standby; [NewProxy] sits between a client and a server, loses replies at message
// boundaries, adds latency and counts round trips; [PgBouncer] puts a transaction pooler in
// front of a server. They take and return DSNs, so they combine in any order.
//
// # What it needs
//
// PostgreSQL's server binaries (13 or newer), on PATH or where packages install them.
// Without them a test is skipped and says how to install them, or fails if
// AUTOMATION_TEST_REQUIRE_POSTGRES=1. PostgreSQL refuses to run as root, so for root the servers
// run as the user nobody. go test -short skips these tests as well, unless
// AUTOMATION_TEST_REQUIRE_POSTGRES=1.
//
// # What it leaves behind
//
// The directory /dev/shm/pgtest-UID, or /tmp/pgtest-UID if memory has little room. It is private
// to the servers' user, and keeps one template per PostgreSQL version, so that a cluster needs no
// initdb of its own. A shell guards each server: when the test binary has ended, even by kill -9,
// it stops the server and removes its files. So TestMain needs no call, and goleak finds no
// goroutine.
//
// Only _test.go files may import this package.
package pgtest
