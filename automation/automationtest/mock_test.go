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
	errAway = errors.New("the database is on fire")
	hour    = settings.Settings{UserID: "alice", IsEnabled: true, SessionDuration: time.Hour, Version: 3, CreatedAt: at, UpdatedAt: at}
	off     = false
	short   = 10 * time.Minute
)

// The stores themselves: what is expected is what they ask.
func TestMock_ExpectsWhatTheStoresAsk(t *testing.T) {
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
		{"settings cannot be read", func(m *automationtest.Mock) { m.SettingsGet("alice").Fails(errAway) },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) { return s.Get(ctx, "alice") }, settings.Settings{}, errAway},
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
		{"settings are stored where none are", func(m *automationtest.Mock) {
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
		{"settings cannot be deleted", func(m *automationtest.Mock) { m.SettingsDelete("alice").Fails(errAway) },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
				return s.Delete(ctx, "alice", settings.Always)
			}, settings.Settings{}, errAway},
		{"a user is erased", func(m *automationtest.Mock) { m.SettingsErase("alice").Done() },
			func(ctx context.Context, s *settings.Store, _ *flags.Store) (any, error) {
				return nil, s.EraseUser(ctx, "alice")
			}, nil, nil},
		{"a flag is read", func(m *automationtest.Mock) {
			m.FlagsGet("beta").Returns(&flags.Flag{Name: "beta", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 1250, Version: 4, UpdatedAt: at, UpdatedBy: "ops"})
		}, func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) { return f.Get(ctx, "beta") },
			&flags.Flag{Name: "beta", Enabled: true, EnabledUserIDs: flags.NewIDs("7"), Percentage: 1250, Version: 4, UpdatedAt: at, UpdatedBy: "ops"}, nil},
		{"a flag is not there", func(m *automationtest.Mock) { m.FlagsGet("beta").Fails(sql.ErrNoRows) },
			func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) { return f.Get(ctx, "beta") }, (*flags.Flag)(nil), flags.ErrNotFound},
		{"a flag is changed", func(m *automationtest.Mock) {
			m.FlagsUpdate("beta", "ops").Returns(&flags.Flag{Name: "beta", Version: 5, UpdatedAt: at})
		}, func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) {
			return f.Update(ctx, "beta", flags.Change{Enabled: &off}, "ops", 0)
		}, &flags.Flag{Name: "beta", Version: 5, UpdatedAt: at}, nil},
		{"flags cannot be read", func(m *automationtest.Mock) { m.FlagsLoad().Fails(errAway) },
			func(ctx context.Context, _ *settings.Store, f *flags.Store) (any, error) {
				_, err := f.Load(ctx, nil)
				return nil, err
			}, nil, errAway},
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
				t.Errorf("answer (- want, + got):\n%s", diff)
			}
		})
	}
}

// A module that does not run asks for what its handlers need and nothing else.
func TestMock_ServesAGatewaysOwnTest(t *testing.T) {
	db, mock := automationtest.NewMock(t)
	m := stillModule(t, db)
	mock.FlagsLoad().Returns(&flags.Flag{Name: automation.FlagName, Enabled: true, Percentage: 100 * flags.Percent, Version: 1, UpdatedAt: at})
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, body string, want int) {
		t.Helper()
		r := httptest.NewRequest(method, automation.BasePath+path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		m.API().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, want)
		}
	}

	mock.SettingsGet("alice").Nothing()
	ask("GET", "/settings", "", http.StatusOK)
	mock.SettingsPut("alice", settings.Values{IsEnabled: true, SessionDuration: time.Hour}).Returns(hour)
	ask("PUT", "/settings", `{"is_enabled":true,"session_duration":3600}`, http.StatusOK)
	mock.SettingsPatch("alice", settings.Change{IsEnabled: &off}).Fails(errAway)
	ask("PATCH", "/settings", `{"is_enabled":false}`, http.StatusServiceUnavailable)
	mock.SettingsDelete("alice").Done()
	ask("DELETE", "/settings", "", http.StatusOK)
	mock.SessionsList("alice").Returns(session.Info{SessionID: sessionID, ModelID: "0xb2", OpenedAt: at, EndsAt: at.Add(time.Hour)})
	ask("GET", "/sessions", "", http.StatusOK)
	mock.SessionsList("alice").Fails(errAway)
	ask("GET", "/sessions", "", http.StatusServiceUnavailable)
	mock.SessionEnd("alice", sessionID).Returns(session.Info{SessionID: sessionID, ModelID: "0xb2", OpenedAt: at, EndsAt: at.Add(time.Hour), Ending: true})
	ask("DELETE", "/sessions/"+sessionID, "", http.StatusOK)
	mock.SessionEnd("alice", otherID).Nothing()
	ask("DELETE", "/sessions/"+otherID, "", http.StatusNotFound)

	mock.SettingsGet("alice").Returns(hour)
	mock.SessionsUsage("alice").Returns(4, 1, 1)
	ask("GET", "/status", "", http.StatusOK)

	mock.SettingsErase("alice").Done()
	mock.SessionsErase("alice").Done()
	mock.FeedbackErase("alice").Done()
	mock.FailuresErase("alice").Done()
	if err := m.EraseUser(t.Context(), "alice"); err != nil {
		t.Error(err)
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
		if err != nil && !errors.Is(err, session.ErrNotRunning) { // Run is about to begin
			t.Fatal(err)
		}
	}
	if c.SessionID() != sessionID {
		t.Errorf("claimed %s, want %s", c.SessionID(), sessionID)
	}
	c.Release()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMock_WhatWasNotExpectedFailsTheTestAndSaysWhatToExpect(t *testing.T) {
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
				t.Error("the call succeeded")
			}
			if !strings.Contains(strings.Join(tb.errors, "\n"), tt.want) {
				t.Errorf("the test is told %q, want %q", strings.Join(tb.errors, "\n"), tt.want)
			}
			tb.end()
		})
	}
}

func TestNewMockOn_TakesSqlmocksOptions(t *testing.T) {
	var asked []string
	inner, outer, err := sqlmock.New(sqlmock.QueryMatcherOption(sqlmock.QueryMatcherFunc(func(want, got string) error {
		asked = append(asked, got)
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
	if got, err := store.Get(t.Context(), "alice"); err != nil || got.SessionDuration != time.Hour || len(asked) == 0 {
		t.Errorf("%+v, %v, %q", got, err, asked)
	}
}

func TestMock_FailsForWhatDidNotHappen(t *testing.T) {
	tb := &fakeTB{}
	_, mock := automationtest.NewMock(tb)
	mock.SettingsGet("alice").Returns(hour)
	tb.end()
	if len(tb.errors) != 1 {
		t.Errorf("errors %q, want one", tb.errors)
	}
}

func TestMock_FailsForWhatWasNotExpected(t *testing.T) {
	tb := &fakeTB{}
	db, mock := automationtest.NewMock(tb)
	defer tb.end()
	store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Get(t.Context(), "alice"); err == nil {
		t.Error("settings were read though nobody expected it")
	}
	mock.SettingsGet("bob").Returns(hour)
	if _, err := store.Get(t.Context(), "alice"); err == nil {
		t.Error("alice's settings were read though bob's were expected")
	}
}

// fakeTB keeps what a test would be told.
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

// stillModule is a module that does not run.
func stillModule(t *testing.T, db *sqlx.DB) *automation.Module {
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
