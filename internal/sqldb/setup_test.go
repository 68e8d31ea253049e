package sqldb_test

import (
	"errors"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const modes = `SELECT concat_ws(', ', current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('synchronous_commit'))`

func TestSetup_OverridesTheHostsDefaults(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		dsn := pgtest.Database(t)
		admin := pgtest.Open(t, dsn)
		for _, isolation := range []string{"read uncommitted", "repeatable read", "serializable"} {
			t.Run(isolation, func(t *testing.T) {
				execute(t, admin, `DO $$ BEGIN
					EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''`+isolation+`''', current_database());
					EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
					EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
				END $$`)
				// The next round must be able to change the database.
				defer execute(t, admin, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET ALL', current_database()); END $$`)
				pool := pgtest.Open(t, dsn)
				pool.SetMaxOpenConns(1)
				db := sqldb.New(pool, sqldb.Options{})
				if got := read[string](t, db, modes); got != "read committed, off, on" {
					t.Errorf("a write runs with %s, want read committed, off, on", got)
				}
				got, err := sqldb.Read(t.Context(), db, "r", func(tx *sqldb.Tx) (s string, err error) { return s, tx.Get(&s, modes) })
				if err != nil || got != "read committed, on, off" {
					t.Errorf("a read runs with %s, %v, want read committed, on, off", got, err)
				}
				if got := scalar[string](t, pool, modes); got != isolation+", on, off" {
					t.Errorf("afterwards the host's own statements run with %s, want %s, on, off", got, isolation)
				}
			})
		}
	})
}

func TestSetup_KeepsSynchronousReplication(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		pool.SetMaxOpenConns(1)
		for setting, want := range map[string]string{"off": "on", "local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
			execute(t, pool, `SET synchronous_commit = `+setting)
			if got := read[string](t, sqldb.New(pool, sqldb.Options{}), `SHOW synchronous_commit`); got != want {
				t.Errorf("a host's synchronous_commit %s becomes %s, want %s", setting, got, want)
			}
		}
	})
}

func TestWrite_DropsTheConnectionToAStandby(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		cluster := pgtest.Start(t, pgtest.Options{})
		setUp := pgtest.Open(t, cluster.DSN("postgres"))
		setUp.SetMaxIdleConns(0) // the restart would break idle connections
		execute(t, setUp, `CREATE TABLE tokens (token text)`)
		cluster.RestartAsStandby()
		pool := pgtest.Open(t, cluster.DSN("postgres"))
		pool.SetMaxOpenConns(1)
		db := sqldb.New(pool, sqldb.Options{})
		var calls int
		if err := insert(t.Context(), db, &calls); !errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrOutcomeUnknown) || calls != 0 {
			t.Errorf("a write on a standby: error %v after %d runs, want ErrUnavailable alone after 0", err, calls)
		}
		if n := pool.Stats().OpenConnections; n != 0 {
			t.Errorf("%d connections to the standby are still in the pool, want none", n)
		}
		n, err := sqldb.Read(t.Context(), db, "r", func(tx *sqldb.Tx) (n int, err error) { return n, tx.Get(&n, `SELECT count(*) FROM tokens`) })
		if err != nil || n != 0 {
			t.Errorf("a read on a standby: %d rows, error %v; want 0", n, err)
		}
		execute(t, pool, `SELECT pg_promote()`)
		if err := insert(t.Context(), db, &calls); err != nil || calls != 1 {
			t.Errorf("a write after the standby was promoted: error %v after %d runs, want none after 1", err, calls)
		}
	})
}
