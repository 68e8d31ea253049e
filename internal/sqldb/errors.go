package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// SQLState is the five-character code of PostgreSQL's error, or "". It works
// for lib/pq and pgx alike.
func SQLState(err error) string {
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

// sqliteCode is SQLite's primary result code, or 0.
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

// IsConstraint tells whether the database refused a row: a CHECK, a NOT NULL,
// a unique index, or a value it could not take (class 22 and 23).
func IsConstraint(err error) bool {
	s := SQLState(err)
	return strings.HasPrefix(s, "23") || strings.HasPrefix(s, "22") || sqliteCode(err) == sqliteConstraint
}

// repeatable errors left nothing behind and may well pass the next time.
func repeatable(err error) bool {
	if errors.Is(err, ErrOutcomeUnknown) {
		return false
	}
	switch SQLState(err) {
	case "40001", "40P01": // serialization failure, deadlock
		return true
	}
	return spoiled(err) || sqliteCode(err) == sqliteBusy
}

// refused tells of a COMMIT that failed whether it is certain that nothing was
// applied. When in doubt it is not.
func refused(err error) bool {
	switch {
	case errors.Is(err, sql.ErrTxDone):
		return true // rolled back before
	case err == context.DeadlineExceeded: //nolint:errorlint // see below
		// From database/sql before it sent COMMIT, or from SQLite, which rolled
		// back. Pgx wraps its own, which comes from after the COMMIT.
		return true
	}
	switch sqliteCode(err) {
	case sqliteBusy, sqliteLocked, sqliteConstraint:
		return true
	}
	s := SQLState(err)
	if s == "" || s == "40003" {
		return false
	}
	switch s[:2] {
	case "08", "53", "57", "58", "XX": // may come from after the commit record
		return s == "57014" // a cancel does not
	}
	return true
}

// disconnected errors cost the connection: classes 08 and 57P, and what the
// drivers report without a code.
func disconnected(err error) bool {
	if s := SQLState(err); strings.HasPrefix(s, "08") || strings.HasPrefix(s, "57P") || s == "25P03" {
		return true
	}
	var unsent interface{ SafeToRetry() bool } // pgx, of a connection that it has closed
	if errors.As(err, &unsent) && unsent.SafeToRetry() {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && !errors.Is(ne, context.DeadlineExceeded) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// spoiled connections must not go back to the pool: they are dead, or the
// server behind them takes no writes: 0A000 is a standby's answer to a
// transaction that is to write, 25006 its answer to the statement that does.
func spoiled(err error) bool {
	s := SQLState(err)
	return disconnected(err) || s == "25006" || s == "0A000"
}

// lost adds ErrUnavailable to errors that say that the database is away, has
// no room, or took too long.
func lost(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	s := SQLState(err)
	away := spoiled(err) || s == "57014" || s == "55P03" || strings.HasPrefix(s, "53") || strings.HasPrefix(s, "58") ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	switch sqliteCode(err) {
	case sqliteBusy, sqliteLocked, sqliteReadOnly, sqliteIOErr, sqliteFull, sqliteCantOpen:
		away = true
	}
	if away {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
