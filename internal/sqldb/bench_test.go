package sqldb_test

import (
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// BenchmarkRead compares a read of one row with database/sql alone: one
// statement by itself, and one in a transaction.
func BenchmarkRead(b *testing.B) {
	const query = `SELECT v FROM one WHERE id = $1`
	pool := pgtest.Open(b, pgtest.Database(b))
	pool.SetMaxIdleConns(4)
	if _, err := pool.ExecContext(b.Context(), `CREATE TABLE one (id text PRIMARY KEY, v int NOT NULL); INSERT INTO one VALUES ('a', 1)`); err != nil {
		b.Fatal(err)
	}
	db := sqldb.New(pool, sqldb.Options{})
	var v int
	b.Run("sqldb", func(b *testing.B) {
		for b.Loop() {
			if _, err := sqldb.Read(b.Context(), db, "read", func(tx *sqldb.Tx) (v int, err error) { return v, tx.Get(&v, query, "a") }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a transaction alone", func(b *testing.B) {
		for b.Loop() {
			tx, err := pool.BeginTxx(b.Context(), nil)
			if err == nil {
				err = tx.GetContext(b.Context(), &v, query, "a")
			}
			if err == nil {
				err = tx.Commit()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("a statement alone", func(b *testing.B) {
		for b.Loop() {
			if err := pool.GetContext(b.Context(), &v, query, "a"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
