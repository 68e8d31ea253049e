package sqldb_test

import (
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestWrite_StatesItsOwnModesWhateverTheHostsDefaults(t *testing.T) {
	const modes = `SELECT concat_ws(' ', current_setting('transaction_isolation'), current_setting('transaction_read_only'), current_setting('synchronous_commit'))`
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		pool.SetMaxOpenConns(1) // so that the defaults below are of the connection that is used
		db := sqldb.New(pool, sqldb.Options{})
		for _, c := range []struct{ name, isolation, readOnly, commit, write, read string }{
			{"PostgreSQL's own", "read committed", "off", "on", "read committed off on", "read committed on on"},
			{"a stricter isolation", "repeatable read", "off", "on", "read committed off on", "read committed on on"},
			{"read only", "serializable", "on", "on", "read committed off on", "read committed on on"},
			{"a weak commit", "read committed", "off", "off", "read committed off on", "read committed on on"},
			{"a stronger commit stays", "read committed", "off", "remote_apply", "read committed off remote_apply", "read committed on remote_apply"},
		} {
			execute(t, pool, `SET default_transaction_isolation = '`+c.isolation+`'`, `SET synchronous_commit = '`+c.commit+`'`,
				`SET default_transaction_read_only = '`+c.readOnly+`'`)
			in := func(tx *sqldb.Tx) (s string, err error) { return s, tx.Get(&s, modes) }
			if got, err := sqldb.Write(t.Context(), db, "w", in); err != nil || got != c.write {
				t.Errorf("%s: a write runs %q (%v), want %q", c.name, got, err, c.write)
			}
			if got, err := sqldb.Read(t.Context(), db, "r", in); err != nil || got != c.read {
				t.Errorf("%s: a read runs %q (%v), want %q", c.name, got, err, c.read)
			}
		}
	})
}
