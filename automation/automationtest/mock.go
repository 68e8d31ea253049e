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

// Mock is a go-sqlmock that knows what the module asks of a PostgreSQL
// database. Its own methods name a call of a store and return what the answer
// is to be given to; each stands for the whole transaction. Until it has its
// answer, a call fails. Everything of sqlmock is there as well, for the host's
// own statements; expectations are met in the order in which they were made,
// unless MatchExpectationsInOrder says otherwise.
type Mock struct{ sqlmock.Sqlmock }

// NewMock makes a pool on a Mock. What was not expected fails the test, which
// says what to expect; and when the test ends, all that was expected must have
// happened.
func NewMock(tb TB) (*sqlx.DB, *Mock) {
	tb.Helper()
	db, mock, err := sqlmock.New()
	if err != nil {
		tb.Fatal(err)
	}
	return NewMockOn(tb, db, mock)
}

// NewMockOn is NewMock on what sqlmock.New returned, for options of its own such
// as another query matcher. The module's expectations are regular expressions,
// so a matcher has to take those as well.
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

// begin expects a transaction, and its time-outs.
func (m *Mock) begin() {
	m.ExpectBegin()
	m.ExpectExec(`SELECT set_config\('statement_timeout'`).WillReturnResult(sqlmock.NewResult(0, 1))
}

// query expects a transaction of one query that begins so, with some first arguments.
func (m *Mock) query(prefix string, args ...driver.Value) *sqlmock.ExpectedQuery {
	m.begin()
	q := m.ExpectQuery(starts(prefix))
	if args != nil {
		q.WithArgs(args...)
	}
	return q
}

func (m *Mock) exec(prefix string, args ...driver.Value) WriteCall {
	m.begin()
	e := m.ExpectExec(starts(prefix))
	if args != nil {
		e.WithArgs(args...)
	}
	return WriteCall{m, e}
}

// starts makes a regular expression of a statement's beginning.
func starts(prefix string) string {
	quoted := strings.NewReplacer(`(`, `\(`, `)`, `\)`, `$`, `\$`, `*`, `\*`, `+`, `\+`).Replace(prefix)
	return `^\s*` + strings.Join(strings.Fields(quoted), `\s+`)
}

// WriteCall is a call that changes rows and returns none.
type WriteCall struct {
	mock *Mock
	exec *sqlmock.ExpectedExec
}

// Done lets the call succeed.
func (e WriteCall) Done() {
	e.exec.WillReturnResult(sqlmock.NewResult(0, 1))
	e.mock.ExpectCommit()
}

// Fails lets the database answer with an error.
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

// SettingsPut expects that values are stored for a user, whatever is stored.
func (m *Mock) SettingsPut(user string, v settings.Values) SettingsCall {
	return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, v.IsEnabled, seconds(v.SessionDuration),
		v.IsEnabled, seconds(v.SessionDuration), true), true}
}

// SettingsPatch expects that some values are stored for a user, whatever is stored.
func (m *Mock) SettingsPatch(user string, c settings.Change) SettingsCall {
	return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, given(c.IsEnabled), givenSeconds(c.SessionDuration),
		sqlmock.AnyArg(), sqlmock.AnyArg(), true), true}
}

// SettingsUpdate expects that values are stored for a user if that version is,
// by Put or Patch.
func (m *Mock) SettingsUpdate(user string, c settings.Change, ifVersion int64) SettingsCall {
	if ifVersion == 0 {
		return SettingsCall{m, m.query(`INSERT INTO user_automation_settings`, user, given(c.IsEnabled), givenSeconds(c.SessionDuration),
			sqlmock.AnyArg(), sqlmock.AnyArg(), false), true}
	}
	return SettingsCall{m, m.query(`UPDATE user_automation_settings AS s SET`, user, given(c.IsEnabled), givenSeconds(c.SessionDuration), ifVersion), true}
}

// SettingsDelete expects that a user is taken back to the defaults, whatever is
// stored.
func (m *Mock) SettingsDelete(user string) WriteCall {
	return m.exec(`UPDATE user_automation_settings SET version = version + 1`, user, true, sqlmock.AnyArg())
}

// SettingsErase expects that a user's settings are erased.
func (m *Mock) SettingsErase(user string) WriteCall {
	return m.exec(`DELETE FROM user_automation_settings WHERE CAST(user_id AS text) = $1`, user)
}

// FeedbackErase expects that what a user said is erased.
func (m *Mock) FeedbackErase(user string) WriteCall {
	return m.exec(`DELETE FROM automation_feedback WHERE user_id = $1`, user)
}

// FailuresErase expects that the record of a user's failed requests is erased.
func (m *Mock) FailuresErase(user string) WriteCall {
	return m.exec(`DELETE FROM automation_user_failures WHERE user_id = $1`, user)
}

// Returns lets the database have these settings, or have them from then on.
func (s SettingsCall) Returns(is settings.Settings) {
	s.query.WillReturnRows(settingsRows().AddRow(is.IsEnabled, seconds(is.SessionDuration), is.Version, is.CreatedAt, is.UpdatedAt, nil))
	s.mock.ExpectCommit()
}

// Nothing lets the database have none; for a write with a version that is a
// conflict.
func (s SettingsCall) Nothing() {
	s.query.WillReturnRows(settingsRows())
	if s.writes {
		s.mock.ExpectRollback()
	} else {
		s.mock.ExpectCommit()
	}
}

// Fails lets the database answer with an error.
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

// FlagsUpdate expects that somebody changes a flag.
func (m *Mock) FlagsUpdate(name, actor string) FlagsCall {
	m.begin()
	m.ExpectExec(`set_config\('automation`).WithArgs(actor).WillReturnResult(sqlmock.NewResult(0, 1))
	m.ExpectExec(`UPDATE feature_flags SET`).WillReturnResult(sqlmock.NewResult(0, 1)) // the columns that change; the flag's name follows
	m.ExpectExec(`set_config\('automation`).WithArgs("").WillReturnResult(sqlmock.NewResult(0, 1))
	columns := sqlmock.NewRows([]string{"attname"})
	for _, name := range flagFields {
		columns.AddRow(name)
	}
	m.ExpectQuery(`FROM pg_attribute`).WillReturnRows(columns)
	return FlagsCall{m, m.ExpectQuery(starts(flagColumns + ` WHERE feature_name = $1`)).WithArgs(name)}
}

var (
	flagFields  = []string{"feature_name", "enabled", "enabled_user_ids", "disabled_user_ids", "rollout_percentage", "seed", "notice", "version", "updated_at", "updated_by"}
	flagColumns = `SELECT ` + strings.Join(flagFields, ", ") + ` FROM feature_flags`
)

// Returns lets the database have these flags, or have them from then on.
func (f FlagsCall) Returns(list ...*flags.Flag) {
	rows := sqlmock.NewRows(flagFields)
	for _, x := range list {
		rows.AddRow(x.Name, x.Enabled, idList(x.EnabledUserIDs), idList(x.DisabledUserIDs), x.Percentage.String(), x.Seed, x.Notice, x.Version, x.UpdatedAt, x.UpdatedBy)
	}
	f.query.WillReturnRows(rows)
	f.mock.ExpectCommit()
}

// Fails lets the database answer with an error.
func (f FlagsCall) Fails(err error) {
	f.query.WillReturnError(err)
	f.mock.ExpectRollback()
}

func idList(ids flags.IDs) string {
	text, err := ids.MarshalJSON()
	if err != nil {
		panic(err) // texts always marshal
	}
	return string(text)
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// given is an argument that may be NULL.
func given(b *bool) driver.Value {
	if b == nil {
		return nil
	}
	return *b
}

func givenSeconds(d *time.Duration) driver.Value {
	if d == nil {
		return nil
	}
	return seconds(*d)
}
