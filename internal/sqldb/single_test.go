package sqldb_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

type token struct {
	Token string `db:"token"`
}

// insertOne writes one token with Query.
func insertOne(ctx context.Context, db *sqldb.DB, text string) ([]token, error) {
	return sqldb.Query[token](ctx, db, "q", `INSERT INTO tokens VALUES ($1) RETURNING token`, text)
}

// execOne writes one token with Exec.
func execOne(ctx context.Context, db *sqldb.DB, text string) (int64, error) {
	return sqldb.Exec(ctx, db, "e", `INSERT INTO tokens VALUES ($1)`, text)
}

func TestExecAndQuery_WriteLikeATransaction(t *testing.T) {
	run := func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE tokens (token text CHECK (token <> 'rejected'))`)
		db := sqldb.New(pool, sqldb.Options{MaxConns: 1})
		for _, text := range []string{"plain", "", `it's \ "quoted"`, "Zoë 例", "$1 -- ; /*"} {
			if n, err := execOne(t.Context(), db, text); n != 1 || err != nil {
				t.Errorf("Exec of %q: %d rows, error %v; want 1", text, n, err)
			}
			list, err := insertOne(t.Context(), db, text)
			if err != nil || len(list) != 1 || list[0].Token != text {
				t.Errorf("Query of %q: rows %v, error %v; want the text", text, list, err)
			}
		}
		if list, err := sqldb.Query[token](t.Context(), db, "q", `DELETE FROM tokens WHERE token = $1 RETURNING token`, "absent"); len(list) != 0 || err != nil {
			t.Errorf("Query that finds no row: rows %v, error %v; want none", list, err)
		}
		if _, err := execOne(t.Context(), db, "rejected"); !sqldb.IsConstraint(err) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("Exec of a row that violates a CHECK: error %v, want the constraint's", err)
		}
		if _, err := insertOne(t.Context(), db, "rejected"); !sqldb.IsConstraint(err) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("Query with a row that violates a CHECK: error %v, want the constraint's", err)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 10 {
			t.Errorf("%d rows, want 10", n)
		}
	}
	t.Run("sqlite", func(t *testing.T) { run(t, sqlite(t)) })
	onDrivers(t, func(t *testing.T) {
		t.Run("direct", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.Database(t))) })
		t.Run("pooler", func(t *testing.T) { run(t, pgtest.Open(t, pgtest.PgBouncer(t, pgtest.Database(t)))) })
	})
}

func TestExecAndQuery_OverrideTheHostsDefaults(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		dsn := pgtest.Database(t)
		admin := pgtest.Open(t, dsn)
		// A trigger records the settings with which each row is written.
		execute(t, admin, `CREATE TABLE tokens (token text, modes text)`,
			`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				NEW.modes := concat_ws(', ', current_setting('transaction_isolation'), current_setting('synchronous_commit')); RETURN NEW; END $$`,
			`CREATE TRIGGER note BEFORE INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION note()`,
			`DO $$ BEGIN
				EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
				EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
				EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database());
			END $$`)
		pool := pgtest.Open(t, dsn)
		pool.SetMaxOpenConns(1)
		db := sqldb.New(pool, sqldb.Options{})
		if _, err := execOne(t.Context(), db, "exec"); err != nil {
			t.Error(err)
		}
		if _, err := insertOne(t.Context(), db, "query"); err != nil {
			t.Error(err)
		}
		if got := scalar[string](t, admin, `SELECT string_agg(modes, '; ' ORDER BY token) FROM tokens`); got != "read committed, on; read committed, on" {
			t.Errorf("written with %s, want READ COMMITTED and a synchronous commit", got)
		}
		if got := scalar[string](t, pool, modes); got != "repeatable read, on, off" {
			t.Errorf("afterwards the host's own statements run with %s, want repeatable read, on, off", got)
		}
	})
}

func TestQuery_IsDurableWhereTheHostsWritesAreNot(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool := pgtest.Open(t, pgtest.Database(t))
		pool.SetMaxOpenConns(1)
		execute(t, pool, `CREATE TABLE tokens (token text)`, `SET synchronous_commit = off`,
			`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.token := current_setting('synchronous_commit'); RETURN NEW; END $$`,
			`CREATE TRIGGER note BEFORE INSERT ON tokens FOR EACH ROW EXECUTE FUNCTION note()`)
		list, err := insertOne(t.Context(), sqldb.New(pool, sqldb.Options{}), "t")
		if err != nil || len(list) != 1 || list[0].Token != "on" {
			t.Errorf("written with synchronous_commit %v, error %v; want on", list, err)
		}
		if got := scalar[string](t, pool, `SHOW synchronous_commit`); got != "off" {
			t.Errorf("afterwards the host's synchronous_commit is %s, want off", got)
		}
	})
}

func TestSelect_ReadsLikeATransaction(t *testing.T) {
	type seen struct {
		Text  string     `db:"text"`
		At    sqldb.Time `db:"at"`
		Modes string     `db:"modes"`
	}
	onDrivers(t, func(t *testing.T) {
		dsn := pgtest.Database(t)
		admin := pgtest.Open(t, dsn)
		execute(t, admin, `DO $$ BEGIN
			EXECUTE format('ALTER DATABASE %I SET default_transaction_isolation = ''repeatable read''', current_database());
			EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database());
		END $$`)
		for name, dsn := range map[string]string{"direct": dsn, "pooler": pgtest.PgBouncer(t, dsn)} {
			t.Run(name, func(t *testing.T) {
				pool := pgtest.Open(t, dsn)
				pool.SetMaxOpenConns(1)
				db := sqldb.New(pool, sqldb.Options{})
				for _, text := range []string{"plain", `it's \ "quoted"`, "Zoë 例"} {
					list, err := sqldb.Select[seen](t.Context(), db, "s", `SELECT CAST($1 AS text) AS text, CAST(CAST('2026-01-02 03:04:05' AS timestamp) AS timestamptz) AS at,
						concat_ws(', ', current_setting('transaction_isolation'), current_setting('transaction_read_only')) AS modes`, text)
					if err != nil || len(list) != 1 || list[0].Text != text {
						t.Fatalf("Select of %q: rows %v, error %v; want the text", text, list, err)
					}
					if list[0].Modes != "read committed, on" || list[0].At.Format(time.DateTime) != "2026-01-02 03:04:05" {
						t.Errorf("Select runs with %s and reads a time without a zone as %v; want READ COMMITTED, READ ONLY and UTC", list[0].Modes, list[0].At)
					}
				}
				if list, err := sqldb.Select[seen](t.Context(), db, "s", `SELECT '' AS text WHERE $1`, false); len(list) != 0 || err != nil {
					t.Errorf("Select that finds no row: rows %v, error %v; want none", list, err)
				}
				if _, err := sqldb.Select[seen](t.Context(), db, "s", `SELECT CAST(1 / CAST($1 AS int) AS text) AS text`, 0); !sqldb.IsConstraint(err) {
					t.Errorf("a division by zero: error %v, want one of class 22", err)
				}
				if got := scalar[string](t, pool, `SELECT concat_ws(', ', current_setting('transaction_isolation'), current_setting('TimeZone'))`); got != "repeatable read, Asia/Tokyo" {
					t.Errorf("afterwards the host's own statements run with %s, want repeatable read, Asia/Tokyo", got)
				}
			})
		}
	})
	t.Run("sqlite", func(t *testing.T) {
		list, err := sqldb.Select[token](t.Context(), sqldb.New(sqlite(t), sqldb.Options{}), "s", `SELECT $1 AS token`, "t")
		if err != nil || len(list) != 1 || list[0].Token != "t" {
			t.Errorf("rows %v, error %v; want t", list, err)
		}
	})
}

func TestSelect_IsRepeatedAfterALostReply(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		execute(t, pool, `INSERT INTO tokens VALUES ('a'), ('b')`)
		lost := 0
		proxy.LoseReplies(func(tag string) bool {
			if tag == "SELECT 2" {
				lost++
			}
			return tag == "SELECT 2" && lost == 1
		})
		list, err := sqldb.Select[token](t.Context(), sqldb.New(pool, sqldb.Options{}), "s", `SELECT token FROM tokens WHERE token <> $1`, "c")
		if len(list) != 2 || err != nil || lost != 2 {
			t.Errorf("rows %v, error %v, sent %d times; want two rows, sent twice", list, err, lost)
		}
		proxy.LoseReplies(func(string) bool { return true })
		_, err = sqldb.Select[token](t.Context(), sqldb.New(pool, sqldb.Options{}), "s", `SELECT token FROM tokens`)
		if !errors.Is(err, sqldb.ErrUnavailable) || errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want ErrUnavailable alone", err)
		}
	})
}

// loseFirstInsert makes the proxy lose the first reply to a Query that inserts. With pgx the
// statement is part of a SELECT.
func loseFirstInsert(proxy *pgtest.Proxy) {
	pgx := os.Getenv("AUTOMATION_TEST_DRIVER") == "pgx"
	lost := false
	proxy.LoseReplies(func(tag string) bool {
		isInsert := strings.HasPrefix(tag, "INSERT") || pgx && strings.HasPrefix(tag, "SELECT 1")
		if lost || !isInsert {
			return false
		}
		lost = true
		return true
	})
}

func TestQuery_ReportsALostReplyAsUnknownAndRunsOnce(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		db := sqldb.New(pool, sqldb.Options{})
		loseFirstInsert(proxy)
		if _, err := insertOne(t.Context(), db, "t"); !errors.Is(err, sqldb.ErrOutcomeUnknown) || errors.Is(err, sqldb.ErrUnavailable) {
			t.Errorf("error %v, want ErrOutcomeUnknown alone", err)
		}
		if n := scalar[int](t, pool, `SELECT count(*) FROM tokens`); n != 1 || proxy.Lost() != 1 {
			t.Errorf("applied %d times, %d replies lost; want 1, 1", n, proxy.Lost())
		}
	})
}

func TestExec_RunsAgainAfterALostReply(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		db := sqldb.New(pool, sqldb.Options{})
		execute(t, pool, `INSERT INTO tokens VALUES ('t')`)
		lost := 0
		proxy.LoseReplies(func(tag string) bool {
			if strings.HasPrefix(tag, "UPDATE") {
				lost++
			}
			return strings.HasPrefix(tag, "UPDATE") && lost == 1
		})
		n, err := sqldb.Exec(t.Context(), db, "e", `UPDATE tokens SET token = $1`, "u")
		if n != 1 || err != nil || lost != 2 {
			t.Errorf("%d rows, error %v, sent %d times; want 1 row, sent twice", n, err, lost)
		}
		proxy.LoseReplies(func(string) bool { return true })
		if _, err := sqldb.Exec(t.Context(), db, "e", `UPDATE tokens SET token = $1`, "v"); !errors.Is(err, sqldb.ErrOutcomeUnknown) {
			t.Errorf("error %v, want ErrOutcomeUnknown: the first attempt may have been applied", err)
		}
	})
}

func TestExec_SkipsThePoolsDeadConnections(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, proxy := proxied(t)
		if err := pool.PingContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		proxy.CutAll()
		if n, err := execOne(t.Context(), sqldb.New(pool, sqldb.Options{}), "t"); n != 1 || err != nil {
			t.Errorf("%d rows, error %v; want 1", n, err)
		}
	})
}
