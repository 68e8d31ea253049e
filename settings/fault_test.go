package settings_test

import (
	"database/sql/driver"
	"errors"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// transaction is a transaction that the mock expects.
type transaction struct {
	rows   *sqlmock.Rows // of its query; nil: its statement returns no rows
	begin  error
	commit error
}

// newFaultyStore returns a store on a mock that expects the transactions.
func newFaultyStore(t *testing.T, list ...transaction) *settings.Store {
	t.Helper()
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		mock.ExpectClose()
		if err := errors.Join(db.Close(), mock.ExpectationsWereMet()); err != nil {
			t.Errorf("the mock: %v", err)
		}
	})
	for _, tx := range list {
		if tx.begin != nil {
			mock.ExpectBegin().WillReturnError(tx.begin)
			continue
		}
		mock.ExpectBegin()
		mock.ExpectExec("set_config").WillReturnResult(driver.ResultNoRows)
		if tx.rows != nil {
			mock.ExpectQuery("user_automation_settings").WillReturnRows(tx.rows)
		} else {
			mock.ExpectExec("user_automation_settings").WillReturnResult(sqlmock.NewResult(0, 1))
		}
		if end := mock.ExpectCommit(); tx.commit != nil {
			end.WillReturnError(tx.commit)
		}
	}
	return newStore(t, sqlx.NewDb(db, "postgres"))
}

// storedRow returns a row at a version.
func storedRow(version int64) *sqlmock.Rows {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	return sqlmock.NewRows([]string{"is_enabled", "session_duration", "version", "created_at", "updated_at", "deleted_at"}).
		AddRow(true, 7200, version, now, now, nil)
}

var errLost = errors.New("read tcp: connection reset by peer")

func TestStore_RepeatsAnUnconditionalWriteWhenTheAnswerToCommitIsLost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		call func(t *testing.T, s *settings.Store) (settings.Settings, error)
		rows func() *sqlmock.Rows
		want int64
	}{
		{"put", func(t *testing.T, s *settings.Store) (settings.Settings, error) {
			return put(t.Context(), s, "u", settings.Always)
		}, func() *sqlmock.Rows { return storedRow(2) }, 2},
		{"patch", func(t *testing.T, s *settings.Store) (settings.Settings, error) {
			return patch(t.Context(), s, "u", settings.Always)
		}, func() *sqlmock.Rows { return storedRow(2) }, 2},
		{"delete", func(t *testing.T, s *settings.Store) (settings.Settings, error) {
			return s.Delete(t.Context(), "u", settings.Always)
		}, func() *sqlmock.Rows { return nil }, 0},
		{"delete on a version", func(t *testing.T, s *settings.Store) (settings.Settings, error) {
			return s.Delete(t.Context(), "u", settings.IfVersion(1))
		}, func() *sqlmock.Rows { return nil }, 0},
		{"erase", func(t *testing.T, s *settings.Store) (settings.Settings, error) {
			return settings.Settings{}, s.EraseUser(t.Context(), "u")
		}, func() *sqlmock.Rows { return nil }, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, err := test.call(t, newFaultyStore(t, transaction{rows: test.rows(), commit: errLost}, transaction{rows: test.rows()}))
			if err != nil || got.Version != test.want {
				t.Errorf("the answer is lost once: version %d, error %v; want version %d", got.Version, err, test.want)
			}
			_, err = test.call(t, newFaultyStore(t, transaction{rows: test.rows(), commit: errLost}, transaction{rows: test.rows(), commit: errLost}))
			if !errors.Is(err, settings.ErrOutcomeUnknown) {
				t.Errorf("the answer is lost twice: error %v, want ErrOutcomeUnknown", err)
			}
			_, err = test.call(t, newFaultyStore(t, transaction{rows: test.rows(), commit: errLost}, transaction{begin: errors.New("no more")}))
			if !errors.Is(err, settings.ErrOutcomeUnknown) || errors.Is(err, settings.ErrUnavailable) {
				t.Errorf("the answer is lost, then the database is unavailable: error %v, want ErrOutcomeUnknown; ErrUnavailable would say that nothing was written", err)
			}
		})
	}
}

func TestStore_DoesNotRepeatAConditionalPut(t *testing.T) {
	t.Parallel()
	for version := range int64(2) {
		store := newFaultyStore(t, transaction{rows: storedRow(version + 1), commit: errLost})
		if _, err := put(t.Context(), store, "u", settings.IfVersion(version)); !errors.Is(err, settings.ErrOutcomeUnknown) {
			t.Errorf("Put on version %d returned %v, want ErrOutcomeUnknown", version, err)
		}
	}
}

func TestStore_ClampsASessionDurationThatOverflows(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := newFaultyStore(t, transaction{rows: sqlmock.NewRows([]string{"is_enabled", "session_duration", "version", "created_at", "updated_at", "deleted_at"}).
		AddRow(true, int64(1)<<62, 1, now, now, nil)})
	want(t, must[settings.Settings](t)(store.Get(t.Context(), "u")),
		settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: 24 * time.Hour, Version: 1})
}
