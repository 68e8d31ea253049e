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

// strict puts a pool before that of a sqlmock, which fails the test for what
// was not expected: the module itself would answer 503 and continue.
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
			return fmt.Errorf("automationtest: %T is no connection of go-sqlmock", raw)
		}
		return nil
	})
	return sql.OpenDB(strictConnector{tb, c, db.Driver()}), err
}

// strictConnector connects to one sqlmock.
type strictConnector struct {
	tb     TB
	conn   mockConn
	driver driver.Driver
}

func (c strictConnector) Connect(context.Context) (driver.Conn, error) {
	return &strictConn{mockConn: c.conn, tb: c.tb}, nil
}

func (c strictConnector) Driver() driver.Driver { return c.driver }

// strictConn reports what the connection behind it did not expect.
type strictConn struct {
	mockConn
	tb    TB
	stray bool // in a transaction that was not expected
}

var errNotExpected = errors.New("automationtest: the test does not expect this")

// Close leaves the connection, which all of the pool's share, to its own pool.
func (c *strictConn) Close() error { return nil }

// BeginTx lets a transaction begin that was not expected, because only its
// first statement says what the test should expect.
func (c *strictConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.mockConn.BeginTx(ctx, o)
	if notExpected(err) {
		c.stray = true
		return strayTx{c}, nil
	}
	return tx, err
}

type strayTx struct{ *strictConn }

func (t strayTx) Commit() error   { t.stray = false; return nil }
func (t strayTx) Rollback() error { t.stray = false; return nil }

func (c *strictConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.stray {
		switch {
		case isSetup(query):
			return noRows{}, nil
		case strings.Contains(query, "FROM pg_attribute"):
			// Where flags cannot be read, the module looks which columns there
			// are. A test that lets reading fail need not expect that.
			return nil, errNotExpected
		}
		return nil, c.report(query, nil)
	}
	rows, err := c.mockConn.QueryContext(ctx, query, args)
	if notExpected(err) {
		return nil, c.report(query, err)
	}
	return rows, err
}

func (c *strictConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if c.stray {
		if isSetup(query) {
			return driver.RowsAffected(0), nil
		}
		return nil, c.report(query, nil)
	}
	result, err := c.mockConn.ExecContext(ctx, query, args)
	if notExpected(err) {
		return nil, c.report(query, err)
	}
	return result, err
}

// isSetup reports whether a statement only sets a transaction up.
func isSetup(query string) bool { return strings.Contains(query, "set_config(") }

// report fails the test, once, with the expectation to add.
func (c *strictConn) report(query string, why error) error {
	c.tb.Helper()
	text := strings.Join(strings.Fields(query), " ")
	if why == nil {
		why = errNotExpected
	}
	c.tb.Errorf("automationtest: the module asks what the test does not expect: %.120s\n\texpect it with %s\n\t%v", text, suggestion(text), why)
	return fmt.Errorf("%w: %w", errNotExpected, why)
}

// notExpected reports whether an error is sqlmock's own. It has no sentinels.
func notExpected(err error) bool {
	if err == nil {
		return false
	}
	for _, said := range []string{"was not expected", "could not match actual sql", "arguments do not match"} {
		if strings.Contains(err.Error(), said) {
			return true
		}
	}
	return false
}

// suggestions are the expectations by what their statements begin with.
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

// noRows is an empty answer.
type noRows struct{}

func (noRows) Columns() []string         { return nil }
func (noRows) Close() error              { return nil }
func (noRows) Next([]driver.Value) error { return io.EOF }
