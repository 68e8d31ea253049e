package automationtest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/DATA-DOG/go-sqlmock"
	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// The ids of sessions on the chain.
var sessionID, otherID = "0x" + strings.Repeat("a1", 32), "0x" + strings.Repeat("c3", 32)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

var (
	at      = time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	errDown = errors.New("the database is down")
	hour    = settings.Settings{UserID: "alice", IsEnabled: true, SessionDuration: time.Hour, Version: 3, CreatedAt: at, UpdatedAt: at}
	off     = false
	short   = 10 * time.Minute
)

// The expectations match the statements of the real stores.
func TestMock_ExpectsTheStoresStatements(t *testing.T) {
	for _, c := range []struct {
		name   string
		expect func(*automationtest.Mock)
		call   func(context.Context, *settings.Store, *flags.Store) (any, error)
		want   any
		err    error
	}{
		{"settings are read", func(m *automationtest.Mock) { m.SettingsGet("alice").Returns(hour) },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) { return s.Get(ctx, "alice") }, hour, nil},
		{"nothing is stored", func(m *automationtest.Mock) { m.SettingsGet("alice").Nothing() },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) { return s.Get(ctx, "alice") },
			settings.Settings{UserID: "alice", SessionDuration: time.Hour}, nil},
		{"settings cannot be read", func(m *automationtest.Mock) { m.SettingsGet("alice").Fails(errDown) },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) { return s.Get(ctx, "alice") }, settings.Settings{}, errDown},
		{"settings are put", func(m *automationtest.Mock) {
			m.SettingsPut("alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}).Returns(hour)
		}, func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
			return s.Put(ctx, "alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.Always)
		}, hour, nil},
		{"settings are patched", func(m *automationtest.Mock) {
			m.SettingsPatch("alice", settings.Change{SessionDuration: &short}).Returns(hour)
		}, func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
			return s.Patch(ctx, "alice", settings.Change{SessionDuration: &short}, settings.Always)
		}, hour, nil},
		{"settings are stored for the first time", func(m *automationtest.Mock) {
			m.SettingsUpdate("alice", settings.Change{IsEnabled: &off}, 0).Returns(hour)
		}, func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
			return s.Patch(ctx, "alice", settings.Change{IsEnabled: &off}, settings.IfVersion(0))
		}, hour, nil},
		{"settings have changed meanwhile", func(m *automationtest.Mock) {
			m.SettingsUpdate("alice", settings.Change{IsEnabled: &off}, 2).Nothing()
		}, func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
			return s.Patch(ctx, "alice", settings.Change{IsEnabled: &off}, settings.IfVersion(2))
		}, settings.Settings{}, settings.ErrConflict},
		{"settings are deleted", func(m *automationtest.Mock) { m.SettingsDelete("alice").Done() },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
				return s.Delete(ctx, "alice", settings.Always)
			}, settings.Settings{UserID: "alice", SessionDuration: time.Hour}, nil},
		{"settings cannot be deleted", func(m *automationtest.Mock) { m.SettingsDelete("alice").Fails(errDown) },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
				return s.Delete(ctx, "alice", settings.Always)
			}, settings.Settings{}, errDown},
		{"a user is erased", func(m *automationtest.Mock) { m.SettingsErase("alice").Done() },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
				return nil, s.EraseUser(ctx, "alice")
			}, nil, nil},
		{"a flag is read", func(m *automationtest.Mock) {
			m.FlagsGet("beta").Returns(&flags.Flag{Name: "beta", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 1250, Version: 4, UpdatedAt: at, UpdatedBy: "ops"})
		}, func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) { return f.Get(ctx, "beta") },
			&flags.Flag{Name: "beta", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 1250, Version: 4, UpdatedAt: at, UpdatedBy: "ops"}, nil},
		{"a flag does not exist", func(m *automationtest.Mock) { m.FlagsGet("beta").Fails(sql.ErrNoRows) },
			func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) { return f.Get(ctx, "beta") }, (*flags.Flag)(nil), flags.ErrNotFound},
		{"a flag is changed", func(m *automationtest.Mock) {
			m.FlagsUpdate("beta", "ops").Returns(&flags.Flag{Name: "beta", Version: 5, UpdatedAt: at})
		}, func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) {
			return f.Update(ctx, "beta", flags.Change{Enabled: &off}, "ops", 0)
		}, &flags.Flag{Name: "beta", Version: 5, UpdatedAt: at}, nil},
		{"flags cannot be read", func(m *automationtest.Mock) { m.FlagsLoad().Fails(errDown) },
			func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) {
				_, err := f.Load(ctx, nil)
				return nil, err
			}, nil, errDown},
	} {
		t.Run(c.name, func(t *testing.T) {
			db, mock := automationtest.NewMock(t)
			c.expect(mock)
			store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.call(t.Context(), store, flags.NewStore(db, flags.StoreOptions{}))
			if !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// A module that is not running sends only its handlers' statements.
func TestMock_ServesAModuleThatIsNotRunning(t *testing.T) {
	db, mock := automationtest.NewMock(t)
	m := newModule(t, db)
	mock.FlagsLoad().Returns(&flags.Flag{Name: automation.FlagName, Enabled: true, Percentage: 100 * flags.Percent, Version: 1, UpdatedAt: at})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	call := func(method, path, body string, want int) {
		t.Helper()
		r := httptest.NewRequest(method, automation.BasePath+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		m.API().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %s: status %d %s, want %d", method, path, w.Code, w.Body, want)
		}
	}

	mock.SettingsGet("alice").Nothing()
	call("GET", "/settings", "", http.StatusOK)
	mock.SettingsPut("alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}).Returns(hour)
	call("PUT", "/settings", `{"is_enabled":true,"session_duration":3600}`, http.StatusOK)
	mock.SettingsPatch("alice", settings.Change{IsEnabled: &off}).Fails(errDown)
	call("PATCH", "/settings", `{"is_enabled":false}`, http.StatusServiceUnavailable)
	mock.SettingsDelete("alice").Done()
	call("DELETE", "/settings", "", http.StatusOK)
	mock.SessionsList("alice").Returns(session.Info{SessionID: sessionID, ModelID: "0xb2", OpenedAt: at, EndsAt: at.Add(time.Hour)})
	call("GET", "/sessions", "", http.StatusOK)
	mock.SessionsList("alice").Fails(errDown)
	call("GET", "/sessions", "", http.StatusServiceUnavailable)
	mock.SessionEnd("alice", sessionID).Returns(session.Info{SessionID: sessionID, ModelID: "0xb2", OpenedAt: at, EndsAt: at.Add(time.Hour), Ending: true})
	call("DELETE", "/sessions/"+sessionID, "", http.StatusOK)
	mock.SessionEnd("alice", otherID).Nothing()
	call("DELETE", "/sessions/"+otherID, "", http.StatusNotFound)

	mock.SettingsGet("alice").Returns(hour)
	mock.SessionsUsage("alice").Returns(4, 1, 1)
	call("GET", "/status", "", http.StatusOK)

	mock.SettingsErase("alice").Done()
	mock.SessionsErase("alice").Done()
	mock.FeedbackErase("alice").Done()
	mock.FailuresErase("alice").Done()
	if err := m.EraseUser(t.Context(), "alice"); err != nil {
		t.Errorf("EraseUser: %v", err)
	}
}

func TestMock_ClaimsAndReleasesASession(t *testing.T) {
	db, mock := automationtest.NewMock(t)
	m, err := session.New(db, nil, session.Options{Interval: time.Hour, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	mock.SessionClaim("alice", "0xb2").Returns(session.Info{SessionID: sessionID, ModelID: "0xb2", OpenedAt: at, EndsAt: at.Add(time.Hour), InUse: true})
	mock.SessionRelease().Done()
	var c *session.Claim
	for c == nil {
		c, err = m.Acquire(ctx, session.Request{UserID: "alice", ModelID: "0xb2", Duration: time.Hour})
		if err != nil && !errors.Is(err, session.ErrNotRunning) { // until Run has begun
			t.Fatal(err)
		}
	}
	if c.SessionID() != sessionID {
		t.Errorf("claimed %s, want %s", c.SessionID(), sessionID)
	}
	c.Release()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestMock_FailsForUnexpectedStatements(t *testing.T) {
	for name, tt := range map[string]struct {
		expect func(*automationtest.Mock)
		want   string
	}{
		"nothing is expected":      {func(*automationtest.Mock) {}, "SettingsGet"},
		"another user is expected": {func(m *automationtest.Mock) { m.SettingsGet("bob").Returns(hour) }, "arguments do not match"},
		"another call is expected": {func(m *automationtest.Mock) { m.SettingsDelete("alice").Done() }, "SettingsGet"},
	} {
		t.Run(name, func(t *testing.T) {
			tb := &fakeTB{}
			db, mock := automationtest.NewMock(tb)
			tt.expect(mock)
			store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Get(t.Context(), "alice"); err == nil {
				t.Error("reading alice's settings succeeded, want an error")
			}
			if !strings.Contains(strings.Join(tb.errors, "\n"), tt.want) {
				t.Errorf("the test's errors are %q, want one with %q", tb.errors, tt.want)
			}
			tb.end()
		})
	}
}

func TestNewMockOn_TakesSqlmocksOptions(t *testing.T) {
	var matched []string
	inner, outer, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherFunc(func(want, got string) error {
		matched = append(matched, got)
		return sqlmock.QueryMatcherRegexp.Match(want, got)
	})))
	if err != nil {
		t.Fatal(err)
	}
	db, mock := automationtest.NewMockOn(t, inner, outer)
	mock.SettingsGet("alice").Returns(hour)
	store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.Get(t.Context(), "alice"); err != nil || got.SessionDuration != time.Hour || len(matched) == 0 {
		t.Errorf("settings %+v, %v and statements %q at the matcher; want a duration of an hour and at least one statement", got, err, matched)
	}
}

func TestMock_FailsForUnmetExpectations(t *testing.T) {
	tb := &fakeTB{}
	_, mock := automationtest.NewMock(tb)
	mock.SettingsGet("alice").Returns(hour)
	tb.end()
	if len(tb.errors) != 1 {
		t.Errorf("errors %q, want one", tb.errors)
	}
}

// fakeTB is a TB that collects errors, and runs the cleanups at end.
type fakeTB struct {
	errors   []string
	cleanups []func()
}

func (tb *fakeTB) Helper() {}
func (tb *fakeTB) Errorf(f string, args ...any) {
	tb.errors = append(tb.errors, fmt.Sprintf(f, args...))
}
func (tb *fakeTB) Fatal(args ...any) { tb.errors = append(tb.errors, fmt.Sprint(args...)) }
func (tb *fakeTB) Cleanup(f func())  { tb.cleanups = append(tb.cleanups, f) }

func (tb *fakeTB) end() {
	for _, f := range slices.Backward(tb.cleanups) {
		f()
	}
}

// newModule returns a module that is not running.
func newModule(t *testing.T, db *sqlx.DB) *automation.Module {
	t.Helper()
	cfg := automation.DefaultConfig()
	cfg.FeatureEnabled = true
	cfg.MappingsFile = filepath.Join("..", "..", "model_mappings.json")
	cfg.ProxyRouterURL = "http://127.0.0.1:1"
	m, err := automation.New(cfg, db, func(*http.Request) (automation.Identity, error) {
		return automation.Identity{UserID: "alice"}, nil
	}, automation.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
