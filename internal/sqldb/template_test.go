package sqldb_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// read runs a query that returns one value.
func read[T any](t *testing.T, db *sqldb.DB, query string, args ...any) (v T) {
	t.Helper()
	v, err := sqldb.Write(t.Context(), db, "test", func(tx *sqldb.Tx) (v T, err error) { return v, tx.Get(&v, query, args...) })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func write(t *testing.T, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	if _, err := sqldb.Write(t.Context(), db, "test", func(tx *sqldb.Tx) (int64, error) { return tx.Exec(query, args...) }); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func TestExpand_MeansTheSameOnBothDatabases(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		db := sqldb.New(pool, sqldb.Options{})
		at, list := "timestamptz", "jsonb"
		if db.SQLite() {
			at, list = "text", "text"
		}
		execute(t, pool, `CREATE TABLE t (id text PRIMARY KEY, at `+at+`, list `+list+`, secs integer)`)

		t.Run("until is the inverse of in", func(t *testing.T) {
			for _, secs := range []float64{-86400 * 400, -3600.5, -0.25, 0, 0.001, 1.5, 3600, 86400 * 3650} {
				write(t, db, `DELETE FROM t`)
				write(t, db, `INSERT INTO t (id, at) VALUES ('a', {in $1})`, secs)
				if got := read[float64](t, db, `SELECT {until at} FROM t`); math.Abs(got-secs) > 2 {
					t.Errorf("{in %v} is %v s away, want about the same", secs, got)
				}
				if moved := read[float64](t, db, `SELECT {until at} - {until at} FROM t`); moved != 0 {
					t.Errorf("the clock moves by %v s within a statement, want 0", moved)
				}
			}
		})
		t.Run("in takes a whole number, a negated one and a column", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id, at, secs) VALUES ('a', {in $1}, 60), ('b', {in -$1}, 60)`, 60)
			if n := read[int](t, db, `SELECT count(*) FROM t WHERE id = 'a' AND at > {in 30} AND at <= {in secs} OR id = 'b' AND at < {in -30}`); n != 2 {
				t.Errorf("%d rows have the expected times, want 2", n)
			}
		})
		t.Run("now is between the past and the future, and is a time", func(t *testing.T) {
			if !read[bool](t, db, `SELECT {now} > {in -1} AND {now} < {in 1}`) {
				t.Error("now is not between a second ago and in a second")
			}
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id, at) VALUES ('a', {now})`)
			if got := read[sqldb.Time](t, db, `SELECT at FROM t`); time.Since(got.Time).Abs() > time.Minute || got.Location() != time.UTC {
				t.Errorf("now is %v, want the time of this process to a minute, in UTC", got)
			}
		})
		t.Run("unix", func(t *testing.T) {
			for _, secs := range []any{int64(0), int64(1767225600), 1767225600.25, int64(-1)} {
				write(t, db, `DELETE FROM t`)
				write(t, db, `INSERT INTO t (id, at) VALUES ('a', {unix $1})`, secs)
				var want time.Time
				switch s := secs.(type) {
				case int64:
					want = time.Unix(s, 0).UTC()
				case float64:
					want = time.UnixMilli(int64(s * 1000)).UTC()
				}
				if got := read[sqldb.Time](t, db, `SELECT at FROM t`); !got.Equal(want) {
					t.Errorf("{unix %v} is %v, want %v", secs, got, want)
				}
			}
		})
		t.Run("NULL is the zero time", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id) VALUES ('a')`)
			if got := read[sqldb.Time](t, db, `SELECT at FROM t`); !got.IsZero() {
				t.Errorf("NULL is %v, want the zero time", got)
			}
		})
		t.Run("times sort", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id, at) VALUES ('later', {in 0.5}), ('never', NULL), ('now', {now}), ('1970', {unix 0}), ('past', {in -0.5})`)
			if got := ids(t, db, `SELECT id FROM t WHERE at IS NOT NULL ORDER BY at`); !cmp.Equal(got, []string{"1970", "past", "now", "later"}) {
				t.Errorf("sorted by time: %q; want 1970, past, now, later", got)
			}
		})
		t.Run("each", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id) VALUES ('7'), ('a'), ('ü "quoted" \ 世'), ('{}')`)
			for list, want := range map[string][]string{
				`[]`:                                    nil,
				`["a"]`:                                 {"a"},
				`["7", "7", "nobody"]`:                  {"7"},
				`["ü \"quoted\" \\ \u4e16", "a", "{}"]`: {"a", "{}", `ü "quoted" \ 世`},
			} {
				if diff := cmp.Diff(want, ids(t, db, `SELECT id FROM t WHERE id IN {each $1} ORDER BY length(id), id`, list)); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", list, diff)
				}
			}
		})
		t.Run("json", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id, list) VALUES ('a', {json $1})`, `["1", "a b"]`)
			if got := read[string](t, db, `SELECT list FROM t`); got != `["1", "a b"]` {
				t.Errorf("read %s, want the list that was written", got)
			}
		})
		t.Run("lock and skip", func(t *testing.T) {
			write(t, db, `DELETE FROM t`)
			write(t, db, `INSERT INTO t (id) VALUES ('a')`)
			for _, macro := range []string{"{lock}", "{skip}"} {
				if got := ids(t, db, `SELECT id FROM t `+macro); !cmp.Equal(got, []string{"a"}) {
					t.Errorf("%s: rows %q, want a", macro, got)
				}
			}
		})
	})
}

func ids(t *testing.T, db *sqldb.DB, query string, args ...any) []string {
	t.Helper()
	list, err := sqldb.Write(t.Context(), db, "test", func(tx *sqldb.Tx) (list []string, err error) { return list, tx.Select(&list, query, args...) })
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return list
}

func TestExpand_SkipOmitsRowsThatAnotherTransactionLocks(t *testing.T) {
	onDrivers(t, func(t *testing.T) {
		pool, _ := proxied(t)
		db := sqldb.New(pool, sqldb.Options{})
		write(t, db, `INSERT INTO tokens VALUES ('held'), ('free')`)
		_, err := sqldb.Write(t.Context(), db, "holder", func(tx *sqldb.Tx) (string, error) {
			var held string
			if err := tx.Get(&held, `SELECT token FROM tokens WHERE token = 'held' {lock}`); err != nil {
				return "", err
			}
			if got := ids(t, db, `SELECT token FROM tokens {skip}`); !cmp.Equal(got, []string{"free"}) {
				t.Errorf("got %q, want only the token that is not locked", got)
			}
			return held, nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestExpand_PanicsOnAnUnknownMacro(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		defer func() {
			if recover() == nil {
				t.Error("Expand did not panic")
			}
		}()
		sqldb.New(pool, sqldb.Options{}).Expand(`SELECT {nonsense}`)
	})
}

func TestExpand_KeepsOtherBraces(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		const query = `SELECT '{}', '{"a": 1}', '{1,2}'`
		db := sqldb.New(pool, sqldb.Options{})
		for range 2 { // the second result comes from the cache
			if got := db.Expand(query); got != query {
				t.Errorf("got %s, want %s", got, query)
			}
		}
	})
}
