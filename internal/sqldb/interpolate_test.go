package sqldb_test

import (
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestInterpolateParams_ChangesNoResult(t *testing.T) {
	run := func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE tokens (token text, n int)`)
		db := sqldb.New(pool, sqldb.Options{InterpolateParams: true})
		for i, text := range []string{"plain", "", `it's \ "quoted"`, "Zoë 例", "$1 -- ; /*", "{now}"} {
			got, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (list []token, err error) {
				if n, err := tx.Exec(`INSERT INTO tokens VALUES ($1, $2)`, text, i); n != 1 || err != nil {
					t.Errorf("Exec of %q: %d rows, error %v; want 1", text, n, err)
				}
				var n int
				if err := tx.Get(&n, `SELECT n FROM tokens WHERE token = $1`, text); n != i || err != nil {
					t.Errorf("Get of %q: %d, error %v; want %d", text, n, err, i)
				}
				return list, tx.Select(&list, `SELECT token FROM tokens WHERE n = $2 AND token = $1`, text, i)
			})
			if err != nil || len(got) != 1 || got[0].Token != text {
				t.Errorf("Select of %q: rows %v, error %v; want the text", text, got, err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) { run(t, sqlite(t)) })
	onDrivers(t, func(t *testing.T) {
		t.Run("direct", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.Database(t))) })
		t.Run("pooler", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.PgBouncer(t, pgtest.Database(t)))) })
	})
}

func TestInterpolateParams_SavesARoundTripPerStatement(t *testing.T) {
	t.Setenv("AUTOMATION_TEST_DRIVER", "postgres")
	pool, proxy := proxied(t)
	pool.SetMaxOpenConns(1)
	roundTrips := func(interpolate bool) int {
		t.Helper()
		db := sqldb.New(pool, sqldb.Options{InterpolateParams: interpolate})
		for range 2 { // the first transaction also connects
			proxy.TakeTraffic()
			if _, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (int64, error) {
				return tx.Exec(`INSERT INTO tokens VALUES ($1)`, "t")
			}); err != nil {
				t.Error(err)
			}
		}
		return proxy.TakeTraffic().RoundTrips
	}
	if with, without := roundTrips(true), roundTrips(false); with != 4 || without != 5 {
		t.Errorf("BEGIN, the settings, one statement and COMMIT take %d round trips with literals and %d with parameters; want 4 and 5", with, without)
	}
}
