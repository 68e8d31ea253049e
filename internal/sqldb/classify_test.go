package sqldb_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func mock(t *testing.T) (*sqldb.DB, sqlmock.Sqlmock) {
	t.Helper()
	pool, m, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.ExpectationsWereMet(); err != nil {
			t.Error(err)
		}
		m.ExpectClose()
		_ = pool.Close()
	})
	return sqldb.New(sqlx.NewDb(pool, "postgres"), sqldb.Options{}), m
}

type outcome int

const (
	rejected    outcome = iota // not applied; the error is the cause itself
	unavailable                // not applied; the error wraps ErrUnavailable
	unknown                    // perhaps applied; the error wraps ErrOutcomeUnknown
)

func (o outcome) String() string { return [...]string{"rejected", "unavailable", "unknown"}[o] }

func outcomeOf(err error) outcome {
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		return unknown
	case errors.Is(err, sqldb.ErrUnavailable):
		return unavailable
	}
	return rejected
}

// commits are the errors that the drivers may return for a COMMIT.
var commits = map[string]struct {
	err  error
	want outcome
	runs int
}{
	"a lost connection, lib/pq":                 {driver.ErrBadConn, unknown, 1},
	"an end of the stream":                      {io.EOF, unknown, 1},
	"a closed connection, pgx":                  {closedConn{}, unknown, 1},
	"an end within a message":                   {fmt.Errorf("failed to receive message: %w", io.ErrUnexpectedEOF), unknown, 1},
	"a read deadline":                           {&net.OpError{Op: "read", Err: context.DeadlineExceeded}, unknown, 1},
	"a deadline that the driver wraps":          {fmt.Errorf("timeout: %w", context.DeadlineExceeded), unknown, 1},
	"a cancellation, pgx":                       {context.Canceled, unknown, 1},
	"a deadline before COMMIT was sent":         {context.DeadlineExceeded, unavailable, 1},
	"a transaction already rolled back":         {sql.ErrTxDone, rejected, 1},
	"an error of an unknown kind":               {errors.New("pq: unexpected command tag X"), unknown, 1},
	"a deferred constraint, lib/pq":             {&pq.Error{Code: "23505"}, rejected, 1},
	"a deferred constraint, pgx":                {&pgconn.PgError{Code: "23505"}, rejected, 1},
	"a trigger's own code":                      {&pq.Error{Code: "P0001"}, rejected, 1},
	"a cancelled trigger":                       {&pq.Error{Code: "57014"}, unavailable, 1},
	"a serialization failure":                   {&pgconn.PgError{Code: "40001"}, rejected, 3},
	"a deadlock":                                {&pq.Error{Code: "40P01"}, rejected, 3},
	"a shutdown by an administrator":            {&pgconn.PgError{Code: "57P01"}, unknown, 1},
	"a crash of another server process":         {&pgconn.PgError{Code: "57P02"}, unknown, 1},
	"a statement whose completion is unknown":   {&pgconn.PgError{Code: "40003"}, unknown, 1},
	"a transaction whose resolution is unknown": {&pgconn.PgError{Code: "08007"}, unknown, 1},
	"a pooler that lost its server":             {&pgconn.PgError{Code: "08P01"}, unknown, 1},
	"a full disk":                               {&pgconn.PgError{Code: "53100"}, unknown, 1},
	"an I/O error":                              {&pgconn.PgError{Code: "58030"}, unknown, 1},
	"an internal error":                         {&pgconn.PgError{Code: "XX000"}, unknown, 1},
}

func TestWrite_ClassifiesTheReplyToCommit(t *testing.T) {
	for name, c := range commits {
		t.Run(name, func(t *testing.T) {
			db, m := mock(t)
			for range c.runs {
				m.ExpectBegin()
				m.ExpectExec(`set_config`).WillReturnResult(sqlmock.NewResult(0, 1))
				m.ExpectCommit().WillReturnError(c.err)
			}
			runs := 0
			_, err := sqldb.Write(t.Context(), db, "w", func(*sqldb.Tx) (int, error) { runs++; return 0, nil })
			if got := outcomeOf(err); got != c.want || runs != c.runs || !errors.Is(err, c.err) {
				t.Errorf("%v after %d runs, error %v; want %v after %d", got, runs, err, c.want, c.runs)
			}
		})
	}
}

// statements are the errors that the drivers may return for a statement. Errors that
// lose the connection are tested with a real database: the mock has only one connection.
var statements = map[string]struct {
	err  error
	want outcome
	runs int
}{
	"a timeout of the statement": {&pq.Error{Code: "57014"}, unavailable, 1},
	"a timeout of a lock":        {&pq.Error{Code: "55P03"}, unavailable, 1},
	"a full disk":                {&pq.Error{Code: "53100"}, unavailable, 1},
	"a duplicate":                {&pq.Error{Code: "23505"}, rejected, 1},
	"a syntax error":             {&pq.Error{Code: "42601"}, rejected, 1},
	"no row":                     {sql.ErrNoRows, rejected, 1},
	"an error of the function":   {errors.New("not found"), rejected, 1},
	"a deadline":                 {context.DeadlineExceeded, unavailable, 1},
}

func TestWrite_ClassifiesTheReplyToAStatement(t *testing.T) {
	for name, c := range statements {
		t.Run(name, func(t *testing.T) {
			db, m := mock(t)
			for range c.runs {
				m.ExpectBegin()
				m.ExpectExec(`set_config`).WillReturnResult(sqlmock.NewResult(0, 1))
				m.ExpectRollback()
			}
			runs := 0
			_, err := sqldb.Write(t.Context(), db, "w", func(*sqldb.Tx) (int, error) { runs++; return 0, c.err })
			if got := outcomeOf(err); got != c.want || runs != c.runs || !errors.Is(err, c.err) {
				t.Errorf("%v after %d runs, error %v; want %v after %d", got, runs, err, c.want, c.runs)
			}
		})
	}
}

func TestOptional(t *testing.T) {
	other := errors.New("other")
	for _, c := range []struct {
		err   error
		found bool
		want  error
	}{{nil, true, nil}, {sql.ErrNoRows, false, nil}, {fmt.Errorf("wrapped: %w", sql.ErrNoRows), false, nil}, {other, false, other}} {
		if found, err := sqldb.Optional(c.err); found != c.found || !errors.Is(err, c.want) {
			t.Errorf("Optional(%v) = %v, %v; want %v, %v", c.err, found, err, c.found, c.want)
		}
	}
}

func TestIsConstraint(t *testing.T) {
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		execute(t, pool, `CREATE TABLE t (id text PRIMARY KEY CHECK (id <> ''), n integer NOT NULL)`, `INSERT INTO t VALUES ('a', 1)`)
		db := sqldb.New(pool, sqldb.Options{})
		for statement, want := range map[string]bool{
			`INSERT INTO t VALUES ('a', 1)`:    true,
			`INSERT INTO t VALUES ('', 1)`:     true,
			`INSERT INTO t VALUES ('b', NULL)`: true,
			`INSERT INTO nowhere VALUES (1)`:   false,
			`INSERT INTO t VALUES ('c', 1)`:    false,
		} {
			_, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (int64, error) { return tx.Exec(statement) })
			if got := sqldb.IsConstraint(err); got != want {
				t.Errorf("%s: IsConstraint(%v) = %v, want %v", statement, err, got, want)
			}
		}
	})
	if sqldb.IsConstraint(nil) {
		t.Error("IsConstraint(nil) is true")
	}
	if !sqldb.IsConstraint(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "22P05"})) {
		t.Error("IsConstraint is false for 22P05, a character that the database's encoding lacks")
	}
}

func TestWrite_ReportsAnUnusableSQLiteFileAsUnavailable(t *testing.T) {
	pool := sqlite(t)
	execute(t, pool, `CREATE TABLE t (id text)`, `PRAGMA query_only = on`)
	db := sqldb.New(pool, sqldb.Options{})
	_, err := sqldb.Write(t.Context(), db, "w", func(tx *sqldb.Tx) (int64, error) {
		if !tx.SQLite() {
			t.Error("tx.SQLite() is false")
		}
		return tx.Exec(`INSERT INTO t VALUES ('a')`)
	})
	if outcomeOf(err) != unavailable {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
}

// closedConn is pgx's error for a connection that it has closed, on which a
// request may have been sent.
type closedConn struct{}

func (closedConn) Error() string     { return "conn closed" }
func (closedConn) SafeToRetry() bool { return false }
