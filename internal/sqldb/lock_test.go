package sqldb_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// lockMethods run fn in a transaction that holds a lock.
var lockMethods = map[string]func(ctx context.Context, db *sqldb.DB, lock string, fn func(*sqldb.Tx) (int64, error)) (int64, error){
	"Tx.Lock": func(ctx context.Context, db *sqldb.DB, lock string, fn func(*sqldb.Tx) (int64, error)) (int64, error) {
		return sqldb.Write(ctx, db, "w", func(tx *sqldb.Tx) (int64, error) {
			if err := tx.Lock(lock); err != nil {
				return 0, err
			}
			return fn(tx)
		})
	},
	"WriteLocked": func(ctx context.Context, db *sqldb.DB, lock string, fn func(*sqldb.Tx) (int64, error)) (int64, error) {
		return sqldb.WriteLocked(ctx, db, "w", []string{"another", lock}, fn)
	},
}

func TestLock_IsHeldUntilTheTransactionEnds(t *testing.T) {
	for name, write := range lockMethods {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, pool *sqlx.DB) {
				execute(t, pool, `CREATE TABLE n (v int)`, `INSERT INTO n VALUES (0)`)
				db := sqldb.New(pool, sqldb.Options{Timeout: 20 * time.Second})
				var wait sync.WaitGroup
				for range 8 {
					wait.Go(func() {
						_, err := write(t.Context(), db, "n", func(tx *sqldb.Tx) (int64, error) {
							var v int
							if err := tx.Get(&v, `SELECT v FROM n`); err != nil {
								return 0, err
							}
							return tx.Exec(`UPDATE n SET v = CAST($1 AS integer)`, v+1)
						})
						if err != nil {
							t.Error(err)
						}
					})
				}
				wait.Wait()
				if v := scalar[int](t, pool, `SELECT v FROM n`); v != 8 {
					t.Errorf("counted to %d, want 8", v)
				}
			})
		})
	}
}

// The key must not change between versions: replicas of different versions wait for
// the same lock.
func TestLock_HasTheHashOfItsNameAsKey(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		for name, write := range lockMethods {
			for _, lock := range []string{"wallet", "user:Zoë 例", `user:it's \ $1 {now}`} {
				_, err := write(t.Context(), sqldb.New(pool, sqldb.Options{}), lock, func(*sqldb.Tx) (int64, error) {
					var free bool
					err := pool.GetContext(t.Context(), &free, `SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))`, "automation:"+lock)
					if err != nil || free {
						t.Errorf("%s: lock %q can be taken twice (error %v), want that it is held", name, lock, err)
					}
					return 0, nil
				})
				if err != nil {
					t.Errorf("%s of %q: %v", name, lock, err)
				}
			}
		}
	})
}

// A transaction must see the rows and the time of the moment at which it gets the lock, not of
// the moment at which it began to wait.
func TestWriteLocked_ReadsTheClockAndTheRowsAfterTheWait(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		db := sqldb.New(pool, sqldb.Options{Timeout: 2 * time.Minute})
		type seen struct {
			Rows  int  `db:"rows"`
			Later bool `db:"later"`
		}
		got := make(chan seen, 1)
		_, err := sqldb.WriteLocked(t.Context(), db, "first", []string{"n"}, func(tx *sqldb.Tx) (int64, error) {
			go func() {
				s, err := sqldb.WriteLocked(t.Context(), db, "second", []string{"n"}, func(tx *sqldb.Tx) (s seen, err error) {
					return s, tx.Get(&s, `SELECT count(*) AS rows, bool_and(CAST(token AS timestamptz) < {now}) AS later FROM tokens`)
				})
				if err != nil {
					t.Error(err)
				}
				got <- s
			}()
			waitFor(t, "the second waits", func() bool {
				return scalar[bool](t, pool, `SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
					AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
			})
			return tx.Exec(`INSERT INTO tokens VALUES (CAST(clock_timestamp() AS text))`)
		})
		if s := <-got; err != nil || s.Rows != 1 || !s.Later {
			t.Errorf("the second transaction sees %+v, error %v; want the row of the first, and a later clock", s, err)
		}
	})
}
