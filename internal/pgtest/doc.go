// Package pgtest gives tests throwaway PostgreSQL clusters, and the faults that real ones have.
//
// The smallest test is two lines; the cluster behind it starts with the first test binary's
// first call, serves the whole binary, and is gone when the binary is, however that ends:
//
//	dsn := pgtest.Database(t)      // a fresh, empty database
//	db := pgtest.Open(t, dsn)      // by lib/pq, or by pgx: AUTOMATION_TEST_DRIVER
//
// For faults, [Start] makes a cluster of the test's own that can be killed, frozen and started
// again, [NewProxy] stands between a client and a server and loses replies at message
// boundaries, and [PgBouncer] puts a transaction pooler in between. The three take and give
// DSNs, so they stack in any order.
//
// # What it needs
//
// PostgreSQL's server binaries (13 or newer), on PATH or where packages put them. Without them
// a test is skipped with a word on how to install them, or fails where
// AUTOMATION_TEST_REQUIRE_POSTGRES=1 says that they must be there. The servers run as the
// user who runs the test; for root, whom PostgreSQL refuses, as nobody.
//
// # What it leaves behind
//
// /dev/shm/pgtest-UID, or /tmp/pgtest-UID where there is little room in memory, private to the
// servers' user: one template per PostgreSQL version, which saves each cluster its initdb, and
// nothing else. A shell stands guard over each server: when
// the test binary is gone, kill -9 included, it stops the server and removes its files. So
// nothing has to be called at the end of TestMain, and no goroutine is left for goleak to find.
//
// Only _test.go files may import this package.
package pgtest
