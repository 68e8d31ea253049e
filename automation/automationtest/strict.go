package automationtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"
)

// mockConn is what sqlmock's connection implements.
type mockConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.QueryerContext
	driver.ExecerContext
	driver.Pinger
	driver.NamedValueChecker
}

// strict returns a pool on db, the pool of a sqlmock, that fails the test for a
// statement that was not expected. Without it, the module would only answer 503.
func strict(tb TB, db *sql.DB) (*sql.DB, error) {
	conn, err := db.Conn(context.Background())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var c mockConn
	err = conn.Raw(func(raw any) error {
		var ok bool
		if c, ok = raw.(mockConn); !ok {
			return fmt.Errorf("automationtest: %T is not a connection of go-sqlmock", raw)
		}
		return nil
	})
	return sql.OpenDB(strictConnector{tb, c, db.Driver()}), err
}

// strictConnector makes connections that share the one of a sqlmock.
type strictConnector struct {
	tb     TB
	conn   mockConn
	driver driver.Driver
}

func (c strictConnector) Connect(context.Context) (driver.Conn, error) {
	return &strictConn{mockConn: c.conn, tb: c.tb}, nil
}

func (c strictConnector) Driver() driver.Driver { return c.driver }

// strictConn fails the test for statements that its mockConn does not expect.
type strictConn struct {
	mockConn
	tb             TB
	inUnexpectedTx bool
}

var errUnexpected = errors.New("automationtest: a statement that the test does not expect")

// Close does nothing: sqlmock's own pool closes the shared connection.
func (c *strictConn) Close() error { return nil }

// BeginTx also begins a transaction that was not expected, because only its
// first statement shows which expectation is missing.
func (c *strictConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.mockConn.BeginTx(ctx, o)
	if isUnexpected(err) {
		c.inUnexpectedTx = true
		return unexpectedTx{c}, nil
	}
	return tx, err
}

type unexpectedTx struct{ *strictConn }

func (t unexpectedTx) Commit() error   { t.inUnexpectedTx = false; return nil }
func (t unexpectedTx) Rollback() error { t.inUnexpectedTx = false; return nil }

func (c *strictConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.inUnexpectedTx {
		switch {
		case isSetup(query):
			return noRows{}, nil
		case strings.Contains(query, "FROM pg_attribute"):
			// After a failed read of the flags, the module queries which columns
			// exist. A test of that failure need not expect the query.
			return nil, errUnexpected
		}
		return nil, c.report(query, nil)
	}
	rows, err := c.mockConn.QueryContext(ctx, query, args)
	if isUnexpected(err) {
		return nil, c.report(query, err)
	}
	return rows, err
}

func (c *strictConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.inUnexpectedTx {
		if isSetup(query) {
			return driver.RowsAffected(0), nil
		}
		return nil, c.report(query, nil)
	}
	result, err := c.mockConn.ExecContext(ctx, query, args)
	if isUnexpected(err) {
		return nil, c.report(query, err)
	}
	return result, err
}

// isSetup reports whether a statement only sets a transaction up.
func isSetup(query string) bool { return strings.Contains(query, "set_config(") }

// report fails the test with the expectation to add. The cause is sqlmock's
// error, or nil.
func (c *strictConn) report(query string, cause error) error {
	c.tb.Helper()
	statement := strings.Join(strings.Fields(query), " ")
	if cause == nil {
		cause = errUnexpected
	}
	c.tb.Errorf("automationtest: the module sent a statement that the test does not expect: %.120s\n\texpect it with %s\n\t%v",
		statement, suggestion(statement), cause)
	return fmt.Errorf("%w: %w", errUnexpected, cause)
}

// isUnexpected reports whether err says that sqlmock did not expect the call.
// sqlmock has no sentinel errors.
func isUnexpected(err error) bool {
	if err == nil {
		return false
	}
	for _, text := range []string{"was not expected", "could not match actual sql", "arguments do not match"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// suggestions name the expectation for a statement by its prefix.
var suggestions = []struct{ prefix, expectation string }{
	{"SELECT coalesce(is_enabled", "SettingsGet"},
	{"INSERT INTO user_automation_settings", "SettingsPut, SettingsPatch, or SettingsUpdate with version 0"},
	{"UPDATE user_automation_settings AS s", "SettingsUpdate"},
	{"UPDATE user_automation_settings", "SettingsDelete"},
	{"DELETE FROM user_automation_settings", "SettingsErase"},
	{"SELECT feature_name, enabled", "FlagsLoad or FlagsGet"},
	{"UPDATE feature_flags", "FlagsUpdate"},
	{"SELECT id, session_id", "SessionsList"},
	{"WITH held AS (", "SessionsUsage"},
	{"UPDATE automation_sessions SET reason", "SessionEnd"},
	{"UPDATE automation_sessions SET lease_token", "SessionClaim"},
	{"UPDATE automation_sessions SET lane = '', lease_token = NULL", "SessionRelease"},
	{"DELETE FROM automation_feedback", "FeedbackErase"},
	{"DELETE FROM automation_user_failures", "FailuresErase"},
}

func suggestion(query string) string {
	for _, s := range suggestions {
		if strings.HasPrefix(query, s.prefix) {
			return "the Mock's " + s.expectation
		}
	}
	return "sqlmock's own ExpectQuery or ExpectExec"
}

// noRows is an empty result.
type noRows struct{}

func (noRows) Columns() []string         { return nil }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }
