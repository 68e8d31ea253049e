package automationtest

import (
	"database/sql"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Mock is a go-sqlmock that can expect the module's statements on a PostgreSQL
// database. Each of its own methods expects one call of a store, with its whole
// transaction, and returns a value whose methods set the call's result. A call
// without a result fails. The methods of sqlmock serve the host's own
// statements. Calls must happen in the order of their expectations, unless
// MatchExpectationsInOrder(false) was called.
type Mock struct{ sqlmock.Sqlmock }

// NewMock returns a pool on a new Mock. A statement that was not expected fails
// the test, with the expectation to add. So does an expectation that is not met
// when the test ends.
func NewMock(tb TB) (*sqlx.DB, *Mock) {
	tb.Helper()
	db, mock, err := sqlmock.New()
	if err != nil {
		tb.Fatal(err)
	}
	return NewMockOn(tb, db, mock)
}

// NewMockOn is NewMock for a mock that sqlmock.New returned, with options such as
// another query matcher. The module's expectations are regular expressions, so
// the matcher must accept those too.
func NewMockOn(tb TB, db *sql.DB, mock sqlmock.Sqlmock) (*sqlx.DB, *Mock) {
	tb.Helper()
	pool, err := strict(tb, db)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := mock.ExpectationsWereMet(); err != nil {
			tb.Errorf("automationtest: %v", err)
		}
		_ = pool.Close()
		_ = db.Close()
	})
	return sqlx.NewDb(pool, "postgres"), &Mock{mock}
}

// begin expects the start of a transaction and the statement that sets its time-outs.
func (m *Mock) begin() {
	m.ExpectBegin()
	m.ExpectExec(`SELECT set_config\('statement_timeout'`).WillReturnResult(sqlmock.NewResult(0, 1))
}

// query expects a transaction and its query, which begins with prefix. The query
// must have exactly these arguments, or any if none are given.
func (m *Mock) query(prefix string, args ...driver.Value) *sqlmock.ExpectedQuery {
	m.begin()
	q := m.ExpectQuery(prefixPattern(prefix))
	if args != nil {
		q.WithArgs(args...)
	}
	return q
}

// exec is query for a statement that returns no rows.
func (m *Mock) exec(prefix string, args ...driver.Value) WriteCall {
	m.begin()
	e := m.ExpectExec(prefixPattern(prefix))
	if args != nil {
		e.WithArgs(args...)
	}
	return WriteCall{m, e}
}

// prefixPattern returns a regular expression for statements that begin with
// prefix, whatever their white space.
func prefixPattern(prefix string) string {
	quoted := strings.NewReplacer(`(`, `\(`, `)`, `\)`, `$`, `\$`, `*`, `\*`, `+`, `\+`).Replace(prefix)
	return `^\s*` + strings.Join(strings.Fields(quoted), `\s+`)
}

// WriteCall is a call that changes rows and returns none.
type WriteCall struct {
	mock *Mock
	exec *sqlmock.ExpectedExec
}

// Done makes the call succeed.
func (e WriteCall) Done() {
	e.exec.WillReturnResult(sqlmock.NewResult(0, 1))
	e.mock.ExpectCommit()
}

// Fails makes the database return err.
func (e WriteCall) Fails(err error) {
	e.exec.WillReturnError(err)
	e.mock.ExpectRollback()
}

// SettingsCall is a call about one user's settings.
type SettingsCall struct {
	mock   *Mock
	query  *sqlmock.ExpectedQuery
	writes bool
}

// SettingsGet expects that a user's settings are read.
func (m *Mock) SettingsGet(user string) SettingsCall {
	return SettingsCall{m, m.query(`SELECT coalesce(is_enabled, FALSE) AS is_enabled, coalesce(session_duration, 3600) AS session_duration, version, created_at, updated_at, deleted_at FROM user_automation_settings WHERE CAST(user_id AS text) = $1`, user), false}
}

// SettingsPut expects that a user's settings are replaced, whatever version is stored.
func (m *Mock) SettingsPut(user string, v settings.Values) SettingsCall {
	return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, v.IsEnabled, seconds(v.SessionDuration),
		v.IsEnabled, seconds(v.SessionDuration), true), true}
}

// SettingsPatch expects that some of a user's settings are changed, whatever
// version is stored.
func (m *Mock) SettingsPatch(user string, c settings.Change) SettingsCall {
	return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, nullBool(c.IsEnabled), nullSeconds(c.SessionDuration),
		sqlmock.AnyArg(), sqlmock.AnyArg(), true), true}
}

// SettingsUpdate expects a Put or Patch of a user's settings that requires the
// stored version to be ifVersion; 0 requires that none are stored.
func (m *Mock) SettingsUpdate(user string, c settings.Change, ifVersion int64) SettingsCall {
	if ifVersion == 0 {
		return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, nullBool(c.IsEnabled), nullSeconds(c.SessionDuration),
			sqlmock.AnyArg(), sqlmock.AnyArg(), false), true}
	}
	return SettingsCall{m, m.query(`UPDATE user_automation_settings AS s SET`, user, nullBool(c.IsEnabled), nullSeconds(c.SessionDuration), ifVersion), true}
}

// SettingsDelete expects that a user's settings are reset to the defaults,
// whatever version is stored.
func (m *Mock) SettingsDelete(user string) WriteCall {
	return m.exec(`UPDATE user_automation_settings SET version = version + 1`, user, true, sqlmock.AnyArg())
}

// SettingsErase expects that a user's settings are erased.
func (m *Mock) SettingsErase(user string) WriteCall {
	return m.exec(`DELETE FROM user_automation_settings WHERE CAST(user_id AS text) = $1`, user)
}

// FeedbackErase expects that a user's feedback is erased.
func (m *Mock) FeedbackErase(user string) WriteCall {
	return m.exec(`DELETE FROM automation_feedback WHERE user_id = $1`, user)
}

// FailuresErase expects that the record of a user's failed requests is erased.
func (m *Mock) FailuresErase(user string) WriteCall {
	return m.exec(`DELETE FROM automation_user_failures WHERE user_id = $1`, user)
}

// Returns sets the settings that are read, or stored after a write.
func (s SettingsCall) Returns(stored settings.Settings) {
	s.query.WillReturnRows(settingsRows().AddRow(stored.IsEnabled, seconds(stored.SessionDuration), stored.Version, stored.CreatedAt, stored.UpdatedAt, nil))
	s.mock.ExpectCommit()
}

// Nothing makes a read find no settings, and a write with a version fail with
// settings.ErrConflict.
func (s SettingsCall) Nothing() {
	s.query.WillReturnRows(settingsRows())
	if s.writes {
		s.mock.ExpectRollback()
	} else {
		s.mock.ExpectCommit()
	}
}

// Fails makes the database return err.
func (s SettingsCall) Fails(err error) {
	s.query.WillReturnError(err)
	s.mock.ExpectRollback()
}

func settingsRows() *sqlmock.Rows {
	return sqlmock.NewRows([]string{"is_enabled", "session_duration", "version", "created_at", "updated_at", "deleted_at"})
}

// FlagsCall is a call about flags.
type FlagsCall struct {
	mock  *Mock
	query *sqlmock.ExpectedQuery
}

// FlagsLoad expects that all flags are read, as by a watcher's first Refresh.
func (m *Mock) FlagsLoad() FlagsCall {
	return FlagsCall{m, m.query(flagColumns + ` WHERE feature_name IS NOT NULL ORDER BY feature_name`)}
}

// FlagsGet expects that a flag is read.
func (m *Mock) FlagsGet(name string) FlagsCall {
	return FlagsCall{m, m.query(flagColumns+` WHERE feature_name = $1`, name)}
}

// FlagsUpdate expects that actor changes a flag.
func (m *Mock) FlagsUpdate(name, actor string) FlagsCall {
	m.begin()
	m.ExpectExec(`set_config\('automation`).WithArgs(actor).WillReturnResult(sqlmock.NewResult(0, 1))
	m.ExpectExec(`UPDATE feature_flags SET`).WillReturnResult(sqlmock.NewResult(0, 1)) // whichever columns change
	m.ExpectExec(`set_config\('automation`).WithArgs("").WillReturnResult(sqlmock.NewResult(0, 1))
	columns := sqlmock.NewRows([]string{"attname"})
	for _, name := range flagFields {
		columns.AddRow(name)
	}
	m.ExpectQuery(`FROM pg_attribute`).WillReturnRows(columns)
	return FlagsCall{m, m.ExpectQuery(prefixPattern(flagColumns + ` WHERE feature_name = $1`)).WithArgs(name)}
}

var (
	flagFields  = []string{"feature_name", "enabled", "enabled_user_ids", "disabled_user_ids", "rollout_percentage", "seed", "notice", "version", "updated_at", "updated_by"}
	flagColumns = `SELECT ` + strings.Join(flagFields, ", ") + ` FROM feature_flags`
)

// Returns sets the flags that are read, or the flag that is stored after a change.
func (f FlagsCall) Returns(stored ...*flags.Flag) {
	rows := sqlmock.NewRows(flagFields)
	for _, flag := range stored {
		rows.AddRow(flag.Name, flag.Enabled, idList(flag.EnabledUserIDs), idList(flag.DisabledUserIDs), flag.Percentage.String(), flag.Seed, flag.Notice,
			flag.Version, flag.UpdatedAt, flag.UpdatedBy)
	}
	f.query.WillReturnRows(rows)
	f.mock.ExpectCommit()
}

// Fails makes the database return err.
func (f FlagsCall) Fails(err error) {
	f.query.WillReturnError(err)
	f.mock.ExpectRollback()
}

func idList(ids flags.IDs) string {
	text, err := ids.MarshalJSON()
	if err != nil {
		panic(err) // a list of strings always marshals
	}
	return string(text)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// nullBool returns the argument for an optional bool; nil is NULL.
func nullBool(b *bool) driver.Value {
	if b == nil {
		return nil
	}
	return *b
}

func nullSeconds(d *time.Duration) driver.Value {
	if d == nil {
		return nil
	}
	return seconds(*d)
}
