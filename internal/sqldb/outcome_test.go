package sqldb_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestWrite_ReportsALostReplyToCommitAsUnknown(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		db := sqldb.New(pool, sqldb.Options{})
		var calls int
		proxy.LoseCommits(1)
		if err := insert(t.Context(), db, &calls); !errors.Is(err, sqldb.ErrOutcomeUnknown) || errors.Is(err, sqldb.ErrUnavailable) {
			t.Errorf("error %v, want ErrOutcomeUnknown alone", err)
		}
		if proxy.Lost() != 1 || calls != 1 {
			t.Errorf("%d replies lost, ran %d times; want 1, 1", proxy.Lost(), calls)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 1 {
			t.Errorf("applied %d times, want once", n)
		}
	})
}

func TestRead_ReportsALostReplyToCommitAsUnavailable(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		proxy.LoseCommits(1)
		_, err := sqldb.Read(t.Context(), sqldb.New(pool, sqldb.Options{}), "read", func(tx *sqldb.Tx) (n int, err error) {
			return n, tx.Get(&n, `SELECT 1`)
		})
		if !errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want ErrUnavailable alone", err)
		}
	})
}

func TestWrite_RepeatsATransactionThatLostItsConnectionBeforeCommit(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		for _, tag := range []string{"BEGIN", "SELECT 1", "INSERT 0 1"} {
			t.Run("after "+tag, func(t *testing.T) {
				pool, proxy := proxied(t)
				if err := pool.PingContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				lost := false
				proxy.LoseReplies(func(got string) bool {
					if got != tag || lost {
						return false
					}
					lost = true
					return true
				})
				var calls int
				if err := insert(t.Context(), sqldb.New(pool, sqldb.Options{}), &calls); err != nil {
					t.Error(err)
				}
				if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 1 || proxy.Lost() != 1 {
					t.Errorf("applied %d times with %d replies lost, want 1 and 1", n, proxy.Lost())
				}
			})
		}
	})
}

func TestWrite_SkipsThePoolsDeadConnections(t *testing.T) {
	kill := map[string]func(t *testing.T, pool *sqlx.DB, proxy *pgtest.Proxy, direct *sqlx.DB){
		"cut by the proxy": func(_ *testing.T, _ *sqlx.DB, proxy *pgtest.Proxy, _ *sqlx.DB) { proxy.CutAll() },
		"ended by the server": func(t *testing.T, _ *sqlx.DB, _ *pgtest.Proxy, direct *sqlx.DB) {
			execute(t, direct, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		},
	}
	onDrivers(t, func(t *testing.T) {
		for name, kill := range kill {
			t.Run(name, func(t *testing.T) {
				dsn := pgtest.Database(t)
				direct := pgtest.Open(t, dsn)
				execute(t, direct, `CREATE TABLE tokens (token text)`)
				proxy := pgtest.NewProxy(t, dsn)
				pool := pgtest.Open(t, proxy.DSN())
				const idle = 10
				pool.SetMaxIdleConns(idle)
				var conns []*sqlx.Conn
				for range idle {
					c, err := pool.Connx(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					conns = append(conns, c)
				}
				for _, c := range conns {
					_ = c.Close()
				}
				kill(t, pool, proxy, direct)
				var calls int
				if err := insert(t.Context(), sqldb.New(pool, sqldb.Options{}), &calls); err != nil || calls != 1 {
					t.Errorf("error %v after %d runs, want none after 1", err, calls)
				}
			})
		}
	})
}

func TestWrite_ReportsAnUnreachableDatabaseAsUnavailable(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		proxy.SetUpstream(t, "postgres://postgres@127.0.0.1:1/nothing?sslmode=disable")
		var calls int
		err := insert(t.Context(), sqldb.New(pool, sqldb.Options{}), &calls)
		if !errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrOutcomeUnknown) || calls != 0 {
			t.Errorf("error %v after %d runs, want ErrUnavailable alone after 0", err, calls)
		}
	})
}

func TestWrite_RepeatsATransactionThatTheServerRolledBack(t *testing.T) {
	for name, code := range map[string]string{"serialization failure": "40001", "deadlock": "40P01"} {
		t.Run(name, func(t *testing.T) {
			onDrivers(t, func(t *testing.T) {
				pool := pgtest.Open(t, pgtest.Database(t))
				var calls int
				_, err := sqldb.Write(t.Context(), sqldb.New(pool, sqldb.Options{}), "w", func(tx *sqldb.Tx) (int, error) {
					if calls++; calls < 3 {
						return 0, tx.Script(`DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '` + code + `'; END $$`)
					}
					return 0, nil
				})
				if err != nil || calls != 3 {
					t.Errorf("error %v after %d runs, want none after 3", err, calls)
				}
				_, err = sqldb.Write(t.Context(), sqldb.New(pool, sqldb.Options{}), "w", func(tx *sqldb.Tx) (int, error) {
					calls++
					return 0, tx.Script(`DO $$ BEGIN RAISE EXCEPTION 'always' USING ERRCODE = '` + code + `'; END $$`)
				})
				if sqldb.SQLState(err) != code || calls != 6 {
					t.Errorf("error %v after %d runs, want %s after 3 more", err, calls-3, code)
				}
			})
		})
	}
}

func TestWrite_ResolvesADeadlock(t *testing.T) {
	pool := pgtest.Open(t, pgtest.Database(t))
	execute(t, pool, `CREATE TABLE n (id int PRIMARY KEY, v int NOT NULL)`, `INSERT INTO n VALUES (1, 0), (2, 0)`)
	db := sqldb.New(pool, sqldb.Options{})
	var both sync.WaitGroup
	both.Add(2)
	var wait sync.WaitGroup
	for first := 1; first <= 2; first++ {
		wait.Go(func() {
			meet := sync.OnceFunc(func() { both.Done(); both.Wait() })
			_, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (int64, error) {
				if _, err := tx.Exec(`UPDATE n SET v = v + 1 WHERE id = $1`, first); err != nil {
					return 0, err
				}
				meet()
				return tx.Exec(`UPDATE n SET v = v + 1 WHERE id = $1`, 3-first)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if sum := scalar[int](t, pool, `SELECT sum(v) FROM n`); sum != 4 {
		t.Errorf("sum %d, want 4", sum)
	}
}

// deferred begins the SQL of a constraint trigger that fails the first COMMIT; the
// SQLSTATE of the failure has to follow.
const deferred = `
CREATE TABLE tokens (token text);
CREATE SEQUENCE commits;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	IF nextval('commits') = 1 THEN RAISE EXCEPTION 'not now' USING ERRCODE = TG_ARGV[0]; END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON tokens DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse(`

func TestWrite_KnowsThatARejectedCommitAppliedNothing(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		t.Run("constraint violation", func(t *testing.T) {
			pool := pgtest.Open(t, pgtest.Database(t))
			execute(t, pool, deferred+`'23514')`)
			var calls int
			err := insert(t.Context(), sqldb.New(pool, sqldb.Options{}), &calls)
			if !sqldb.IsConstraint(err) || errors.Is(err, sqldb.ErrOutcomeUnknown) || calls != 1 {
				t.Errorf("error %v after %d runs, want a constraint's after 1", err, calls)
			}
		})
		t.Run("serialization failure", func(t *testing.T) {
			pool := pgtest.Open(t, pgtest.Database(t))
			execute(t, pool, deferred+`'40001')`)
			var calls int
			if err := insert(t.Context(), sqldb.New(pool, sqldb.Options{}), &calls); err != nil || calls != 2 {
				t.Errorf("error %v after %d runs, want none after 2", err, calls)
			}
			if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 1 {
				t.Errorf("applied %d times, want once", n)
			}
		})
	})
}

func TestWrite_FailsAfterAFailedStatementWhateverTheFunctionReturns(t *testing.T) {
	test := func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE tokens (token text PRIMARY KEY)`)
		_, err := sqldb.Write(t.Context(), sqldb.New(pool, sqldb.Options{}), "w", func(tx *sqldb.Tx) (int, error) {
			_, _ = tx.Exec(`INSERT INTO tokens VALUES ('a')`)
			_, _ = tx.Exec(`INSERT INTO tokens VALUES ('a')`)
			return 0, nil
		})
		if !sqldb.IsConstraint(err) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want the constraint's", err)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 0 {
			t.Errorf("%d rows, want none", n)
		}
	}
	onBoth(t, test)
	t.Run("pgx", func(t *testing.T) {
		t.Setenv("AUTOMATION_TEST_DRIVER", "pgx")
		test(t, pgtest.Open(t, pgtest.Database(t)))
	})
}

func TestWrite_ReportsUnknownToACallerThatGivesUpDuringCommit(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		db := sqldb.New(pool, sqldb.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		proxy.LoseReplies(func(tag string) bool {
			if tag == "COMMIT" {
				proxy.Freeze()
				cancel()
			}
			return false
		})
		var calls int
		err := insert(ctx, db, &calls)
		if !errors.Is(err, sqldb.ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || errors.Is(err, sqldb.ErrUnavailable) {
			t.Errorf("error %v, want ErrOutcomeUnknown and the context's error", err)
		}
		proxy.LoseReplies(nil)
		proxy.Thaw()
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 1 {
			t.Errorf("applied %d times, want once", n)
		}
		waitIdle(t, pool)
	})
}

func TestWrite_ReportsADeadlineDuringCommitAsUnknown(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		if err := pool.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		var committed atomic.Bool
		proxy.LoseReplies(func(tag string) bool {
			if tag == "COMMIT" {
				committed.Store(true)
				proxy.Freeze()
			}
			return false
		})
		var calls int
		var err error
		for !committed.Load() { // a busy machine can reach the deadline before the COMMIT
			err = insert(t.Context(), sqldb.New(pool, sqldb.Options{Timeout: timeout}), &calls)
		}
		if !errors.Is(err, sqldb.ErrOutcomeUnknown) || errors.Is(err, sqldb.ErrUnavailable) {
			t.Errorf("error %v, want ErrOutcomeUnknown alone", err)
		}
		proxy.Thaw()
		waitIdle(t, pool)
	})
}

func TestWrite_AppliesNothingAfterTheCallerHasGivenUp(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		db := sqldb.New(pool, sqldb.Options{MaxConns: 1})
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		_, err := sqldb.Write(ctx, db, "w", func(tx *sqldb.Tx) (int64, error) {
			n, err := tx.Exec(`INSERT INTO tokens VALUES ('t')`)
			cancel()
			<-release
			return n, err
		})
		if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.Canceled) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want ErrUnavailable and the context's error", err)
		}
		close(release)
		// The read gets the only slot when the write's goroutine has ended.
		n, err := sqldb.Read(t.Context(), db, "r", func(tx *sqldb.Tx) (n int, err error) {
			return n, tx.Get(&n, `SELECT count(*) FROM tokens`)
		})
		if err != nil || n != 0 {
			t.Errorf("%d rows, error %v; want none", n, err)
		}
	})
}

func TestWrite_DropsTheConnectionToAReadOnlyServer(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		pool.SetMaxOpenConns(1)
		var pids []int
		_, err := sqldb.Write(t.Context(), sqldb.New(pool, sqldb.Options{}), "w", func(tx *sqldb.Tx) (int64, error) {
			var pid int
			if err := tx.Get(&pid, `SELECT pg_backend_pid()`); err != nil {
				return 0, err
			}
			if pids = append(pids, pid); len(pids) == 1 {
				if err := tx.Script(`SET TRANSACTION READ ONLY`); err != nil {
					return 0, err
				}
			}
			return tx.Exec(`INSERT INTO tokens VALUES ('t')`)
		})
		if err != nil || len(pids) != 2 || pids[0] == pids[1] {
			t.Errorf("error %v on backends %v, want none on a second backend", err, pids)
		}
	})
}

func TestRead_CannotWriteOnPostgreSQL(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		execute(t, pool, `CREATE TABLE tokens (token text)`)
		_, err := sqldb.Read(t.Context(), sqldb.New(pool, sqldb.Options{}), "r", func(tx *sqldb.Tx) (int64, error) {
			return tx.Exec(`INSERT INTO tokens VALUES ('t')`)
		})
		if sqldb.SQLState(err) != "25006" {
			t.Errorf("error %v, want SQLSTATE 25006 (read-only transaction)", err)
		}
	})
}
