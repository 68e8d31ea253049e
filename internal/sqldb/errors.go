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

const sqliteBusy, sqliteConstraint = 5, 19

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
	case "40001", "40P01", "25006":
		return true
	case "":
		return disconnected(err) || sqliteCode(err) == sqliteBusy
	}
	return disconnected(err)
}

// refused tells that the server, or database/sql before asking it, said no to
// a COMMIT, so that it is certain that nothing was applied.
func refused(err error) bool {
	// database/sql sends no COMMIT once the context has ended, and says so with
	// the bare error; one that a driver wrapped may come from after the COMMIT.
	if err == sql.ErrTxDone || err == context.Canceled || err == context.DeadlineExceeded { //nolint:errorlint // see above
		return true
	}
	if code := sqliteCode(err); code != 0 {
		return true
	}
	s := SQLState(err)
	return s != "" && !disconnected(err)
}

// disconnected errors cost the connection: classes 08 and 57P, and what the
// drivers report without a code.
func disconnected(err error) bool {
	s := SQLState(err)
	if strings.HasPrefix(s, "08") || strings.HasPrefix(s, "57P") || s == "53300" {
		return true
	}
	var ne net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &ne) && !errors.Is(err, context.DeadlineExceeded)
}

// spoiled connections must not go back to the pool: the server behind them has
// become a standby, or is going away.
func spoiled(err error) bool {
	s := SQLState(err)
	return s == "25006" || strings.HasPrefix(s, "57P")
}

// lost adds ErrUnavailable to errors that say that the database is away.
func lost(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	switch s := SQLState(err); {
	case disconnected(err), s == "57014", s == "55P03", s == "25006", s == "25P03", sqliteCode(err) == sqliteBusy,
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
