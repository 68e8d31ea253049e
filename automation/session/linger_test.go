package session_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// lingering are options under which a lease lingers for as long as it may.
func lingering() session.Options {
	o := quick()
	o.Linger = 2 * time.Second
	return o
}

// twoReplicas starts two managers on one database and one node.
func twoReplicas(t *testing.T, db *sqlx.DB, o session.Options) (s *proxyroutertest.Server, a, b *session.Manager) {
	t.Helper()
	s, provider := node(t, proxyroutertest.Options{})
	a, _ = start(t, db, provider, o)
	b, _ = start(t, db, provider, o)
	return s, a, b
}

// lingers uses a user's session until its lease lingers in the manager: it is
// leased, though nobody uses it. On a busy machine a lease may be due at once.
func lingers(t *testing.T, m *session.Manager, db *sqlx.DB, user string) (id string) {
	t.Helper()
	until(t, "a lease lingers", func() bool {
		id = use(t, m, user)
		return leased(t, db, id)
	})
	return id
}

// leased reports whether a session is leased, and stays so for two polls and more: it
// is not just being released.
func leased(t *testing.T, db *sqlx.DB, id string) bool {
	t.Helper()
	for range 10 {
		var token string
		if err := db.Get(&token, `SELECT COALESCE(lease_token, '') FROM automation_sessions WHERE session_id = $1`, id); err != nil {
			t.Fatal(err)
		}
		if token == "" {
			return false
		}
		<-time.After(10 * time.Millisecond) // what lingers is released by time alone
	}
	return true
}

// free waits until a session is leased no more.
func free(t *testing.T, db *sqlx.DB, id string) {
	t.Helper()
	until(t, "the session is free", func() bool {
		var is bool
		if err := db.Get(&is, `SELECT lease_token IS NULL FROM automation_sessions WHERE session_id = $1`, id); err != nil {
			t.Fatal(err)
		}
		return is
	})
}

func TestLinger_LeavesTheSessionToOtherReplicas(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	s, a, b := twoReplicas(t, db, lingering())
	id := lingers(t, a, db, "anna")
	for range 3 {
		for _, m := range []*session.Manager{b, a} {
			if got := use(t, m, "anna"); got != id {
				t.Errorf("got session %s, want %s, which another replica has used last", got, id)
			}
			free(t, db, id) // it would linger for two seconds
		}
	}
	if n := s.Stats().Opens; n != 1 {
		t.Errorf("%d sessions were paid, want 1", n)
	}
	healthy(t, db, s.Stats())
}

func TestLinger_CountsForNobodysLimit(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	o := lingering()
	o.MaxPerUser = 1
	_, a, b := twoReplicas(t, db, o)
	for name, m := range map[string]*session.Manager{"the same replica": a, "another replica": b} {
		user := "user of " + name
		lingers(t, a, db, user)
		req := ask(user)
		req.ModelID = proxyroutertest.ModelID("mistral")
		c, err := m.Acquire(t.Context(), req)
		if err != nil {
			t.Errorf("%s: a session of another model, while one lingers: %v", name, err)
			continue
		}
		c.Release()
	}
}

func TestLinger_IsNotInUseForItsUser(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := node(t, proxyroutertest.Options{})
	m, _ := start(t, db, provider, lingering())
	lingers(t, m, db, "anna")
	if list, err := m.List(t.Context(), "anna"); err != nil || len(list) != 1 || list[0].InUse {
		t.Errorf("the list has %+v, %v; want one session that is not in use", list, err)
	}
}

func TestLinger_EndsWithItsSession(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, m *session.Manager, id session.ID) error{
		"its user ends it": func(t *testing.T, m *session.Manager, id session.ID) error {
			t.Helper()
			_, err := m.End(t.Context(), "anna", id)
			return err
		},
		"an operator ends it": func(t *testing.T, m *session.Manager, id session.ID) error {
			t.Helper()
			return m.EndAny(t.Context(), id)
		},
		"its user is erased": func(t *testing.T, m *session.Manager, _ session.ID) error {
			t.Helper()
			return m.EraseUser(t.Context(), "anna")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := postgres(t)
			_, a, b := twoReplicas(t, db, lingering())
			for where, m := range map[string]*session.Manager{"here": a, "in another replica": b} {
				id := lingers(t, a, db, "anna")
				if err := end(t, m, session.ID(id)); err != nil {
					t.Fatal(err)
				}
				if m == b {
					free(t, db, id)
				}
				if use(t, a, "anna") == id {
					t.Errorf("a session that was ended %s is handed out", where)
				}
			}
		})
	}
}

func TestLinger_EndsWhenItsSessionIsNamed(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, a, b := twoReplicas(t, db, lingering())
	for where, m := range map[string]*session.Manager{"here": a, "in another replica": b} {
		id := session.ID(lingers(t, a, db, "user "+where))
		if _, err := m.AcquireSession(t.Context(), "bob", id); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("%s, another's session: %v", where, err)
		}
		c, err := m.AcquireSession(t.Context(), "user "+where, id)
		if err != nil {
			t.Errorf("%s: %v", where, err)
			continue
		}
		c.Release()
	}
}

func TestLinger_EndsWithItsReplica(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := node(t, proxyroutertest.Options{})
	m, stop := start(t, db, provider, lingering())
	id := lingers(t, m, db, "anna")
	held, err := m.Acquire(t.Context(), ask("bob"))
	if err != nil {
		t.Fatal(err)
	}
	go held.Release()
	stop()
	held.Release()
	for _, id := range []string{id, held.SessionID()} {
		if leased(t, db, id) {
			t.Error("a session is leased though its replica has ended")
		}
	}
}

func TestLinger_HandsNothingOverThatBroke(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := node(t, proxyroutertest.Options{})
	m, _ := start(t, db, provider, lingering())
	lingers(t, m, db, "anna")
	c, err := m.Acquire(t.Context(), ask("anna"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MarkExpired(); err != nil {
		t.Fatal(err)
	}
	c.Release()
	free(t, db, c.SessionID())
	id := lingers(t, m, db, "anna")
	if id == c.SessionID() {
		t.Error("a broken session is handed out")
	}
	late, err := m.Acquire(t.Context(), ask("anna"))
	if err != nil {
		t.Fatal(err)
	}
	late.Release()
	if err := late.MarkExpired(); err != nil || rows(t, db)["open"] != 1 {
		t.Errorf("a claim that was released retires the session, which may be another's: %v", err)
	}
}

func TestLinger_KeepsNoModelsIdleSession(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	s, provider := node(t, proxyroutertest.Options{})
	o := lingering()
	o.Shared = true
	o.Prewarm = func() []session.Prewarm { return []session.Prewarm{{ModelID: modelA, Duration: time.Hour}} }
	m, _ := start(t, db, provider, o)
	until(t, "a session is ready", func() bool { return rows(t, db)["open"] == 1 })
	for range 10 {
		id := use(t, m, "anna")
		free(t, db, id)
		if err := m.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Opens; n > 2 { // a round may come while it is in use
		t.Errorf("%d sessions were paid for a model that keeps one ready", n)
	}
}

// What is released while as many statements are under way as may be goes in one.
func TestRelease_GroupsWhatIsReleasedMeanwhile(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := node(t, proxyroutertest.Options{})
	o := quick()
	var statements atomic.Int64
	sent, resume := make(chan struct{}, 100), make(chan struct{})
	o.ObserveSQL = func(name string, _, _ time.Duration, _ error) {
		if name == "sessions.release" {
			statements.Add(1)
			sent <- struct{}{}
			<-resume
		}
	}
	m, _ := start(t, db, provider, o)
	var released sync.WaitGroup
	for i, c := range claims(t, m, 20) {
		released.Go(c.Release)
		if i < 4 {
			<-sent
		}
	}
	until(t, "the others wait", func() bool { return m.Due() == 16 })
	close(resume)
	released.Wait()
	if n := statements.Load(); n != 5 {
		t.Errorf("20 releases, 16 of them while four statements were under way, took %d statements", n)
	}
}

// claims takes a session for each of n users.
func claims(t *testing.T, m *session.Manager, n int) (list []*session.Claim) {
	t.Helper()
	for _, user := range names("user", n) {
		c, err := m.Acquire(t.Context(), ask(user))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	return list
}

func TestRelease_LeavesALockedRowForLater(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := node(t, proxyroutertest.Options{})
	m, _ := start(t, db, provider, quick())
	list := claims(t, m, 3)
	tx, err := db.Beginx()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.Exec(`UPDATE automation_sessions SET attempts = attempts WHERE session_id = $1`, list[0].SessionID()); err != nil {
		t.Fatal(err)
	}
	var released sync.WaitGroup
	for _, c := range list {
		released.Go(c.Release)
	}
	for _, c := range list[1:] {
		free(t, db, c.SessionID())
	}
	if !leased(t, db, list[0].SessionID()) {
		t.Error("a locked row was written")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	released.Wait()
	free(t, db, list[0].SessionID())
}
