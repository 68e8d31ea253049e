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

func one(tx *sqldb.Tx) (n int, err error) { return n, tx.Get(&n, `SELECT 1`) }

func TestDB_WaitsForASlotUntilTheDeadline(t *testing.T) {
	type call struct {
		name       string
		wait, took time.Duration
		err        error
	}
	var mu sync.Mutex
	var seen []call
	db := sqldb.New(sqlite(t), sqldb.Options{MaxConns: 1, Observe: func(name string, wait, took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, call{name, wait, took, err})
	}})
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := sqldb.Read(t.Context(), db, "holder", func(*sqldb.Tx) (int, error) { close(held); <-release; return 0, nil })
		done <- err
	}()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := sqldb.Read(ctx, db, "waiter", one)
	if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "all 1 database slots are busy") {
		t.Errorf("error %v, want ErrUnavailable by the deadline, because all slots are busy", err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the call that held the slot failed: %v", err)
	}
	if n, err := sqldb.Read(t.Context(), db, "next", one); n != 1 || err != nil {
		t.Errorf("a read once the slot is free: %d, error %v; want 1", n, err)
	}
	if len(seen) != 3 || seen[0].name != "waiter" || seen[0].wait <= 0 || seen[0].err == nil || seen[1].name != "holder" || seen[1].err != nil || seen[1].took <= 0 {
		t.Errorf("observed %+v; want waiter with a wait and an error, then holder and next without an error", seen)
	}
}

func TestUrgent_DoesNotWaitForASlot(t *testing.T) {
	pool := pgtest.Open(t, pgtest.Database(t))
	db := sqldb.New(pool, sqldb.Options{MaxConns: 1})
	_, err := sqldb.Read(t.Context(), db, "holder", func(*sqldb.Tx) (int, error) {
		return sqldb.Read(sqldb.Urgent(t.Context()), db, "urgent", func(*sqldb.Tx) (int, error) {
			ctx, cancel := context.WithTimeout(sqldb.Urgent(t.Context()), 20*time.Millisecond)
			defer cancel()
			if _, err := sqldb.Read(ctx, db, "more", one); !errors.Is(err, sqldb.ErrUnavailable) {
				t.Errorf("a second urgent call during the first: error %v, want ErrUnavailable because it has to wait", err)
			}
			return 0, nil
		})
	})
	if err != nil {
		t.Errorf("an urgent call waited for a slot: %v", err)
	}
	if n, err := sqldb.Read(t.Context(), db, "next", one); n != 1 || err != nil {
		t.Errorf("a read afterwards: %d, error %v; want 1", n, err)
	}
}

func TestWrite_RunsNothingInAContextThatHasEnded(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := sqldb.Write(ctx, sqldb.New(pool, sqldb.Options{}), "w", func(*sqldb.Tx) (int, error) {
			t.Error("the function ran")
			return 0, nil
		})
		if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want ErrUnavailable and the context's error", err)
		}
	})
}

func TestWrite_CancelsTheRunningStatementOfACallerThatGivesUp(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		ctx, cancel := context.WithCancel(t.Context())
		_, err := sqldb.Write(ctx, sqldb.New(pool, sqldb.Options{Timeout: time.Minute}), "w", func(tx *sqldb.Tx) (int, error) {
			time.AfterFunc(10*time.Millisecond, cancel)
			return 0, tx.Script(`SELECT pg_sleep(60)`)
		})
		if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want ErrUnavailable and the context's error", err)
		}
		waitIdle(t, pool)
	})
}

func TestWrite_ReturnsAPanicAsAnErrorAndReleasesEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		db := sqldb.New(pool, sqldb.Options{MaxConns: 1})
		for name, end := range map[string]func(){"panic: on purpose": func() { panic("on purpose") }, "ended its goroutine": runtime.Goexit} {
			_, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (int, error) {
				if _, err := tx.Exec(`INSERT INTO tokens VALUES ('t')`); err != nil {
					t.Error(err)
				}
				end()
				return 0, nil
			})
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("error %v, want %q", err, name)
			}
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 0 || pool.Stats().InUse != 0 {
			t.Errorf("%d rows, %d connections in use; want none", n, pool.Stats().InUse)
		}
		if _, err := sqldb.Read(t.Context(), db, "r", one); err != nil {
			t.Errorf("a read after the panics: %v", err)
		}
	})
}

const timeouts = `SELECT concat_ws(' ', current_setting('statement_timeout'), current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout'))`

func TestSetup_HoldsInTheTransactionAndEndsWithIt(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		pool.SetMaxOpenConns(1)
		db := sqldb.New(pool, sqldb.Options{})
		for name, run := range map[string]func() (string, error){
			"read":  func() (string, error) { return sqldb.Read(t.Context(), db, "r", readTimeouts) },
			"write": func() (string, error) { return sqldb.Write(t.Context(), db, "w", readTimeouts) },
		} {
			if inside, err := run(); err != nil || inside != "5s 4s 5s" {
				t.Errorf("%s: timeouts %q inside, error %v; want 5s 4s 5s", name, inside, err)
			}
			if after := scalar[string](t, pool, timeouts); after != "0 0 0" {
				t.Errorf("%s: timeouts %q afterwards on the same connection, want 0 0 0", name, after)
			}
		}
	})
}

func readTimeouts(tx *sqldb.Tx) (s string, err error) { return s, tx.Get(&s, timeouts) }

func TestSetup_DoesNotLeakThroughAPooler(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pooled(t, pgtest.PgBouncer(t, pgtest.Database(t)))
		db := sqldb.New(pool, sqldb.Options{})
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				for range 10 {
					if inside, err := sqldb.Write(t.Context(), db, "w", readTimeouts); err != nil || inside != "5s 4s 5s" {
						t.Errorf("timeouts %q inside, error %v; want 5s 4s 5s", inside, err)
					}
					tx, err := pool.BeginTxx(t.Context(), nil) // another client of the pooler
					if err != nil {
						t.Error(err)
						return
					}
					var after string
					if err := tx.GetContext(t.Context(), &after, timeouts); err != nil || after != "0 0 0" {
						t.Errorf("another client has the timeouts %q, error %v; want 0 0 0", after, err)
					}
					_ = tx.Rollback()
				}
			})
		}
		wait.Wait()
	})
}

// pooled opens a pool through a transaction pooler. Pgx must not use prepared
// statements there.
func pooled(t *testing.T, dsn string) *sqlx.DB {
	t.Helper()
	if pgtest.Open(t, dsn).DriverName() == "pgx" {
		dsn += "&default_query_exec_mode=exec"
	}
	return pgtest.Open(t, dsn)
}

func TestRead_GetsTheRightParametersThroughAPooler(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		db := sqldb.New(pooled(t, pgtest.PgBouncer(t, pgtest.Database(t))), sqldb.Options{})
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				for j := range 25 {
					want := 100*i + j
					got, err := sqldb.Read(t.Context(), db, "r", func(tx *sqldb.Tx) (n int, err error) {
						return n, tx.Get(&n, `SELECT CAST($1 AS integer)`, want)
					})
					if err != nil || got != want {
						t.Errorf("got %d, error %v; want %d", got, err, want)
					}
				}
			})
		}
		wait.Wait()
	})
}
