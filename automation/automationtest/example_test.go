package automationtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// The module opens a session for the host's handler, and reuses it until it ends.
func ExampleGateway() {
	t := &fakeTB{} // in a test: its *testing.T
	defer t.end()
	g := automationtest.New(t, automationtest.Options{})

	// The code under test is the host's handler behind the module.
	handler := g.Sessions(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("session_id") == "" {
			http.Error(w, "no session", http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprint(w, "served")
	}))
	chat := func(user string) {
		r := httptest.NewRequestWithContext(context.Background(), "POST", "/v1/chat/completions", strings.NewReader(`{"model":"llama"}`))
		r.Header.Set("Authorization", "Bearer sk-"+user)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Printf("%s: %d %s, %d sessions paid\n", user, w.Code, strings.TrimSpace(w.Body.String()), g.Node.Stats().Opens)
	}

	chat("alice")
	g.On("alice")
	chat("alice")
	chat("alice")
	g.Advance(2 * time.Hour)
	chat("alice")
	g.Off("alice")
	chat("alice")
	// Output:
	// alice: 400 no session, 0 sessions paid
	// alice: 200 served, 1 sessions paid
	// alice: 200 served, 1 sessions paid
	// alice: 200 served, 2 sessions paid
	// alice: 400 no session, 2 sessions paid
}

// A host's test with go-sqlmock of code that uses a settings store.
func ExampleMock() {
	t := &fakeTB{} // in a test: its *testing.T
	defer t.end()
	db, mock := automationtest.NewMock(t)
	mock.SettingsGet("alice").Returns(settings.Settings{IsEnabled: true, SessionDuration: time.Hour, Version: 1})
	mock.SettingsPut("alice", settings.Values{SessionDuration: time.Hour}).Fails(errors.New("connection refused"))

	store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	mine, err := store.Get(context.Background(), "alice")
	fmt.Println(mine.IsEnabled, mine.SessionDuration, err)
	_, err = store.Put(context.Background(), "alice", settings.Values{SessionDuration: time.Hour}, settings.Always)
	fmt.Println(err != nil)
	// Output:
	// true 1h0m0s <nil>
	// true
}
