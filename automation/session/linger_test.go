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

// lingerOptions are options under which a lease lingers for as long as it may.
func lingerOptions() session.Options {
	o := testOptions()
	o.Linger = 2 * time.Second
	return o
}

// startTwoReplicas starts two managers on one database and one node.
func startTwoReplicas(t *testing.T, db *sqlx.DB, o session.Options) (s *proxyroutertest.Server, a, b *session.Manager) {
	t.Helper()
	s, provider := startNode(t, proxyroutertest.Options{})
	a, _ = startManager(t, db, provider, o)
	b, _ = startManager(t, db, provider, o)
	return s, a, b
}

// useUntilLingering uses a user's session until its lease lingers in the manager: it is
// leased, though nobody uses it. On a busy machine a lease may be due at once.
func useUntilLingering(t *testing.T, m *session.Manager, db *sqlx.DB, user string) (id string) {
	t.Helper()
	waitUntil(t, "a lease lingers", func() bool {
		id = use(t, m, user)
		return staysLeased(t, db, id)
	})
	return id
}

// staysLeased reports whether a session is leased, and stays so for two polls and more: it
// is not just being released.
func staysLeased(t *testing.T, db *sqlx.DB, id string) bool {
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

// waitReleased waits until a session is leased no more.
func waitReleased(t *testing.T, db *sqlx.DB, id string) {
	t.Helper()
	waitUntil(t, "the session is free", func() bool {
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
	s, a, b := startTwoReplicas(t, db, lingerOptions())
	id := useUntilLingering(t, a, db, "anna")
	for range 3 {
		for _, m := range []*session.Manager{b, a} {
			if got := use(t, m, "anna"); got != id {
				t.Errorf("got session %s, want %s, which another replica has used last", got, id)
			}
			waitReleased(t, db, id) // it would linger for two seconds
		}
	}
	if n := s.Stats().Opens; n != 1 {
		t.Errorf("%d sessions were paid, want 1", n)
	}
	checkInvariants(t, db, s.Stats())
}

func TestLinger_CountsForNobodysLimit(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	o := lingerOptions()
	o.MaxPerUser = 1
	_, a, b := startTwoReplicas(t, db, o)
	for name, m := range map[string]*session.Manager{"the same replica": a, "another replica": b} {
		user := "user of " + name
		useUntilLingering(t, a, db, user)
		req := requestFor(user)
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
	_, provider := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, db, provider, lingerOptions())
	useUntilLingering(t, m, db, "anna")
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
			_, a, b := startTwoReplicas(t, db, lingerOptions())
			for where, m := range map[string]*session.Manager{"here": a, "in another replica": b} {
				id := useUntilLingering(t, a, db, "anna")
				if err := end(t, m, session.ID(id)); err != nil {
					t.Fatal(err)
				}
				if m == b {
					waitReleased(t, db, id)
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
	_, a, b := startTwoReplicas(t, db, lingerOptions())
	for where, m := range map[string]*session.Manager{"here": a, "in another replica": b} {
		id := session.ID(useUntilLingering(t, a, db, "user "+where))
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
	_, provider := startNode(t, proxyroutertest.Options{})
	m, stop := startManager(t, db, provider, lingerOptions())
	id := useUntilLingering(t, m, db, "anna")
	held, err := m.Acquire(t.Context(), requestFor("bob"))
	if err != nil {
		t.Fatal(err)
	}
	go held.Release()
	stop()
	held.Release()
	for _, id := range []string{id, held.SessionID()} {
		if staysLeased(t, db, id) {
			t.Error("a session is leased though its replica has ended")
		}
	}
}

func TestLinger_HandsNothingOverThatBroke(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, db, provider, lingerOptions())
	useUntilLingering(t, m, db, "anna")
	c, err := m.Acquire(t.Context(), requestFor("anna"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.MarkExpired(); err != nil {
		t.Fatal(err)
	}
	c.Release()
	waitReleased(t, db, c.SessionID())
	id := useUntilLingering(t, m, db, "anna")
	if id == c.SessionID() {
		t.Error("a broken session is handed out")
	}
	late, err := m.Acquire(t.Context(), requestFor("anna"))
	if err != nil {
		t.Fatal(err)
	}
	late.Release()
	if err := late.MarkExpired(); err != nil || countByState(t, db)["open"] != 1 {
		t.Errorf("a claim that was released retires the session, which may be another's: %v", err)
	}
}

func TestLinger_KeepsNoModelsIdleSession(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	s, provider := startNode(t, proxyroutertest.Options{})
	o := lingerOptions()
	o.Shared = true
	o.Prewarm = func() []session.Prewarm { return []session.Prewarm{{ModelID: modelA, Duration: time.Hour}} }
	m, _ := startManager(t, db, provider, o)
	waitUntil(t, "a session is ready", func() bool { return countByState(t, db)["open"] == 1 })
	for range 10 {
		id := use(t, m, "anna")
		waitReleased(t, db, id)
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
	_, provider := startNode(t, proxyroutertest.Options{})
	o := testOptions()
	var statements atomic.Int64
	sent, resume := make(chan struct{}, 100), make(chan struct{})
	o.ObserveSQL = func(name string, _, _ time.Duration, _ error) {
		if name == "sessions.release" {
			statements.Add(1)
			sent <- struct{}{}
			<-resume
		}
	}
	m, _ := startManager(t, db, provider, o)
	var released sync.WaitGroup
	for i, c := range acquireEach(t, m, 20) {
		released.Go(c.Release)
		if i < 4 {
			<-sent
		}
	}
	waitUntil(t, "the others wait", func() bool { return m.Due() == 16 })
	close(resume)
	released.Wait()
	if n := statements.Load(); n != 5 {
		t.Errorf("20 releases, 16 of them while four statements were under way, took %d statements", n)
	}
}

// acquireEach takes a session for each of n users.
func acquireEach(t *testing.T, m *session.Manager, n int) (list []*session.Claim) {
	t.Helper()
	for _, user := range names("user", n) {
		c, err := m.Acquire(t.Context(), requestFor(user))
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
	_, provider := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, db, provider, testOptions())
	list := acquireEach(t, m, 3)
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
		waitReleased(t, db, c.SessionID())
	}
	if !staysLeased(t, db, list[0].SessionID()) {
		t.Error("a locked row was written")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	released.Wait()
	waitReleased(t, db, list[0].SessionID())
}
