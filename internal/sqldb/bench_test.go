package sqldb_test

import (
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// BenchmarkRead compares Read with database/sql, both with and without a
// transaction. Each reads one row.
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
	b.Run("database/sql in a transaction", func(b *testing.B) {
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
	b.Run("database/sql without a transaction", func(b *testing.B) {
		for b.Loop() {
			if err := pool.GetContext(b.Context(), &v, query, "a"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
