package sqldb_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const allTokens = `SELECT token FROM tokens WHERE {now} IS NOT NULL ORDER BY token`

func TestLook_ReadsRowsByOneStatement(t *testing.T) {
	run := func(t *testing.T, pool *sqlx.DB) {
		t.Helper()
		execute(t, pool, `CREATE TABLE tokens (token text)`, `INSERT INTO tokens VALUES ('a'), ('b')`)
		db := sqldb.New(pool, sqldb.Options{})
		for range 50 {
			got, err := sqldb.Look[token](t.Context(), db, "look", allTokens)
			if !slices.Equal(got, []token{{"a"}, {"b"}}) || err != nil {
				t.Fatalf("tokens %v, error %v; want a and b", got, err)
			}
		}
	}
	t.Run("sqlite", func(t *testing.T) { run(t, sqlite(t)) })
	onDrivers(t, func(t *testing.T) {
		t.Run("direct", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.Database(t))) })
		t.Run("pooler", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.PgBouncer(t, pgtest.Database(t)))) })
		t.Run("on the wire", func(t *testing.T) {
			pool, proxy := proxied(t)
			db := sqldb.New(pool, sqldb.Options{})
			if _, err := sqldb.Look[token](t.Context(), db, "look", allTokens); err != nil { // connects
				t.Fatal(err)
			}
			proxy.TakeTraffic()
			if _, err := sqldb.Look[token](t.Context(), db, "look", allTokens); err != nil {
				t.Fatal(err)
			}
			// Pgx may ping a connection before it uses it.
			if got := proxy.TakeTraffic(); got.Statements != 1 || got.Queries[db.Expand(allTokens)] != 1 || got.RoundTrips-got.Queries["-- ping"] != 1 {
				t.Errorf("traffic %+v, want one statement in one round trip", got)
			}
		})
	})
}

func TestLook_SkipsThePoolsDeadConnections(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		const idle = 5
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
		proxy.CutAll()
		if _, err := sqldb.Look[token](t.Context(), sqldb.New(pool, sqldb.Options{}), "look", allTokens); err != nil {
			t.Error(err)
		}
	})
}

func TestLook_ReturnsByItsDeadlineWhileTheServerHangs(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		if err := pool.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		proxy.Freeze()
		_, err := sqldb.Look[token](t.Context(), sqldb.New(pool, sqldb.Options{Timeout: timeout}), "look", allTokens)
		if !errors.Is(err, sqldb.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want ErrUnavailable by the deadline", err)
		}
		proxy.Thaw()
		waitIdle(t, pool)
	})
}
