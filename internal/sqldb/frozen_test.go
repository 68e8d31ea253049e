package sqldb_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const timeout = 300 * time.Millisecond

// countRunning returns how many goroutines of transactions still run.
func countRunning() int {
	stacks := make([]byte, 1<<22)
	return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "sqldb.repeat[...](")
}

// waitIdle waits until all transactions of a test have ended and the pool works.
func waitIdle(t *testing.T, pool *sqlx.DB) {
	t.Helper()
	waitFor(t, "no transaction runs", func() bool { return countRunning() == 0 })
	if err := pool.PingContext(t.Context()); err != nil {
		t.Errorf("the pool does not work again: %v", err)
	}
}

func TestDB_ReturnsWhileTheServerHangs(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		const maxConns, calls = 3, 24
		cluster := pgtest.Start(t, pgtest.Options{})
		pool := pgtest.Open(t, cluster.DSN("postgres"))
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		db := sqldb.New(pool, sqldb.Options{MaxConns: maxConns, Timeout: timeout})
		before := runtime.NumGoroutine()
		cluster.Freeze() // until all calls have returned
		var wait sync.WaitGroup
		for i := range calls {
			wait.Go(func() {
				var err error
				if i%2 == 0 {
					var n int
					err = insert(t.Context(), db, &n)
				} else {
					_, err = sqldb.Read(t.Context(), db, "read", func(tx *sqldb.Tx) (n int, err error) {
						return n, tx.Get(&n, `SELECT count(*) FROM tokens WHERE token = $1`, "t")
					})
				}
				if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("error %v, want ErrUnavailable by the deadline", err)
				}
			})
		}
		wait.Wait()
		if n := countRunning(); n > maxConns {
			t.Errorf("%d transactions still run, want at most %d", n, maxConns)
		}
		// A connection has our goroutine, those of database/sql, the driver's watcher and
		// its cancel request.
		if n := runtime.NumGoroutine() - before; n > 5*maxConns {
			t.Errorf("%d goroutines still run, want at most %d", n, 5*maxConns)
		}
		if n := pool.Stats().OpenConnections; n > maxConns+1 {
			t.Errorf("%d connections are open, want at most %d and the one opened before", n, maxConns)
		}
		cluster.Thaw()
		waitIdle(t, pool)
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 0 {
			t.Errorf("calls that failed wrote %d rows, want none", n)
		}
		var n int
		waitFor(t, "writes succeed again", func() bool { return insert(t.Context(), db, &n) == nil })
	})
}

func TestWrite_LeavesThePoolUsableAfterAStatementThatHangs(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
		proxy.LoseReplies(func(tag string) bool {
			if strings.HasPrefix(tag, "INSERT") {
				proxy.Freeze()
			}
			return false
		})
		var calls int
		if err := insert(t.Context(), db, &calls); !errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want ErrUnavailable alone", err)
		}
		proxy.LoseReplies(nil)
		proxy.Thaw()
		waitIdle(t, pool)
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	})
}

func TestRead_CancelsASlowStatementOnTheServer(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		_, err := sqldb.Read(t.Context(), sqldb.New(pool, sqldb.Options{Timeout: timeout}), "slow", func(tx *sqldb.Tx) (int, error) {
			return 0, tx.Script(`SELECT pg_sleep(60)`)
		})
		if !errors.Is(err, sqldb.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		waitFor(t, "the server has cancelled the statement", func() bool {
			return scalar[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()`) == 0
		})
		waitIdle(t, pool)
	})
}
