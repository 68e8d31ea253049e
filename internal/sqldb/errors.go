package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
)

// SQLState returns the five-character code of an error of PostgreSQL, from lib/pq
// or pgx, or "" for any other error.
func SQLState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// Hint returns the HINT of an error of PostgreSQL, or "". Both drivers have it in a
// field of that name, but in no common method.
func Hint(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		if v := reflect.Indirect(reflect.ValueOf(err)); v.Kind() == reflect.Struct {
			if f := v.FieldByName("Hint"); f.IsValid() && f.Kind() == reflect.String {
				return f.String()
			}
		}
	}
	return ""
}

// sqliteCode returns SQLite's primary result code, or 0.
func sqliteCode(err error) int {
	var e interface{ Code() int }
	if errors.As(err, &e) {
		return e.Code() & 0xff
	}
	return 0
}

// SQLite's result codes, https://www.sqlite.org/rescode.html.
const (
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteReadOnly   = 8
	sqliteIOErr      = 10
	sqliteFull       = 13
	sqliteCantOpen   = 14
	sqliteConstraint = 19
)

// IsConstraint reports whether the database rejected a row: for a CHECK, a
// NOT NULL, a unique index, or a value that its type does not allow (classes 22
// and 23 of SQLSTATE).
func IsConstraint(err error) bool {
	s := SQLState(err)
	return strings.HasPrefix(s, "23") || strings.HasPrefix(s, "22") || sqliteCode(err) == sqliteConstraint
}

// repeatable reports whether nothing was applied and another attempt may
// succeed.
func repeatable(err error) bool {
	if errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	switch SQLState(err) {
	case "40001", "40P01": // serialization failure, deadlock
		return true
	}
	return unusable(err) || sqliteCode(err) == sqliteBusy
}

// rolledBack reports whether a failed COMMIT certainly applied nothing.
func rolledBack(err error) bool {
	switch {
	case errors.Is(err, sql.ErrTxDone):
		return true // rolled back before
	case err == context.DeadlineExceeded: //nolint:errorlint // see below
		// Database/sql returns it unwrapped before it sends COMMIT, and SQLite after
		// it has rolled back. Pgx may return it after COMMIT was sent, but wraps it.
		return true
	}
	switch sqliteCode(err) {
	case sqliteBusy, sqliteLocked, sqliteConstraint:
		return true
	}
	return meansRolledBack(SQLState(err))
}

// meansRolledBack reports whether an error of that SQLSTATE means that nothing was
// applied, even if the server may have begun to commit.
func meansRolledBack(state string) bool {
	if state == "" || state == "40003" {
		return false
	}
	switch state[:2] {
	case "08", "53", "57", "58", "XX": // may be raised after the commit record
		return state == "57014" // except for a cancelled statement
	}
	return true
}

// disconnected reports whether the connection is lost: classes 08 and 57P, and
// what the drivers report without a code.
func disconnected(err error) bool {
	if s := SQLState(err); strings.HasPrefix(s, "08") || strings.HasPrefix(s, "57P") || s == "25P03" {
		return true
	}
	// Pgx's error for a connection that it has closed. Since 5.13 SafeToRetry is false
	// if a request may have been sent on it. It is false for timeouts too, which do not
	// mean that the connection is lost.
	var closed interface{ SafeToRetry() bool }
	timedOut := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if errors.As(err, &closed) && (closed.SafeToRetry() || !timedOut) {
		return true
	}
	if ne, ok := errors.AsType[net.Error](err); ok && !errors.Is(ne, context.DeadlineExceeded) {
		return true
	}
	return errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// errReadOnlyServer means that the server rejects READ WRITE transactions, as a
// standby does.
var errReadOnlyServer = errors.New("the server is read-only")

// asReadOnlyServer wraps errReadOnlyServer around a standby's error for the
// statement that asks for READ WRITE.
func asReadOnlyServer(err error) error {
	if SQLState(err) == "0A000" { // feature not supported: nothing else in that statement can be unsupported
		return fmt.Errorf("%w: %w", errReadOnlyServer, err)
	}
	return err
}

// unusable reports whether a connection must not return to the pool: it is lost,
// or its server is read-only.
func unusable(err error) bool {
	return disconnected(err) || SQLState(err) == "25006" || errors.Is(err, errReadOnlyServer)
}

// asUnavailable wraps ErrUnavailable around errors of a database that is
// unreachable, full or too slow.
func asUnavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	s := SQLState(err)
	unavailable := unusable(err) || s == "57014" || s == "55P03" || strings.HasPrefix(s, "53") || strings.HasPrefix(s, "58") ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	switch sqliteCode(err) {
	case sqliteBusy, sqliteLocked, sqliteReadOnly, sqliteIOErr, sqliteFull, sqliteCantOpen:
		unavailable = true
	}
	if unavailable {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
