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

// lingerOptions returns options with the longest Linger.
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

// useUntilLingering uses a user's session until its lease lingers in the manager: the row
// stays leased though no request uses it. On a busy machine a lease may be released at once.
func useUntilLingering(t *testing.T, m *session.Manager, db *sqlx.DB, user string) (id string) {
	t.Helper()
	waitUntil(t, "the lease of the user's session lingers", func() bool {
		id = use(t, m, user)
		return staysLeased(t, db, id)
	})
	return id
}

// staysLeased reports whether a session stays leased for longer than two polls take. One that
// is being released does not.
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
		<-time.After(10 * time.Millisecond) // no signal says that a lease will not be released
	}
	return true
}

// waitReleased waits until a session is not leased.
func waitReleased(t *testing.T, db *sqlx.DB, id string) {
	t.Helper()
	waitUntil(t, "the session is not leased", func() bool {
		var isFree bool
		if err := db.Get(&isFree, `SELECT lease_token IS NULL FROM automation_sessions WHERE session_id = $1`, id); err != nil {
			t.Fatal(err)
		}
		return isFree
	})
}

func TestLinger_LetsOtherReplicasUseTheSession(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	s, a, b := startTwoReplicas(t, db, lingerOptions())
	id := useUntilLingering(t, a, db, "anna")
	for range 3 {
		for _, m := range []*session.Manager{b, a} {
			if got := use(t, m, "anna"); got != id {
				t.Errorf("got session %s, want %s, which the other replica used last", got, id)
			}
			waitReleased(t, db, id) // does not linger, because both replicas need it
		}
	}
	if n := s.Stats().Opens; n != 1 {
		t.Errorf("%d opens, want 1", n)
	}
	checkInvariants(t, db, s.Stats())
}

func TestLinger_DoesNotCountTowardsTheLimit(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	o := lingerOptions()
	o.MaxPerUser = 1
	_, a, b := startTwoReplicas(t, db, o)
	for name, m := range map[string]*session.Manager{"the same replica": a, "another replica": b} {
		user := "user of " + name
		useUntilLingering(t, a, db, user)
		c, err := m.Acquire(t.Context(), requestForModel(user, proxyroutertest.ModelID("mistral")))
		if err != nil {
			t.Errorf("%s: no session of another model while one lingers: %v", name, err)
			continue
		}
		c.Release()
	}
}

func TestLinger_IsListedAsNotInUse(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, provider := startNode(t, proxyroutertest.Options{})
	m, _ := startManager(t, db, provider, lingerOptions())
	useUntilLingering(t, m, db, "anna")
	if list, err := m.List(t.Context(), "anna"); err != nil || len(list) != 1 || list[0].InUse {
		t.Errorf("list %+v, error %v; want one session that is not in use", list, err)
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
					t.Errorf("a session that was ended %s served another request", where)
				}
			}
		})
	}
}

func TestLinger_EndsWhenItsSessionIsRequestedByID(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	_, a, b := startTwoReplicas(t, db, lingerOptions())
	for where, m := range map[string]*session.Manager{"here": a, "in another replica": b} {
		id := session.ID(useUntilLingering(t, a, db, "user "+where))
		if _, err := m.AcquireSession(t.Context(), "bob", id); !errors.Is(err, session.ErrNotYours) {
			t.Errorf("bob requests another user's session %s: %v, want ErrNotYours", where, err)
		}
		c, err := m.AcquireSession(t.Context(), "user "+where, id)
		if err != nil {
			t.Errorf("the user requests the session %s: %v", where, err)
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
	go held.Release() // races with the stop
	stop()
	held.Release() // waits for the other call
	for _, id := range []string{id, held.SessionID()} {
		if staysLeased(t, db, id) {
			t.Errorf("session %s is leased though its replica has ended", id)
		}
	}
}

func TestLinger_DoesNotHandOverABrokenSession(t *testing.T) {
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
		t.Error("a session that was marked expired served another request")
	}
	late, err := m.Acquire(t.Context(), requestFor("anna"))
	if err != nil {
		t.Fatal(err)
	}
	late.Release()
	if err := late.MarkExpired(); err != nil || countByState(t, db)["open"] != 1 {
		t.Errorf("MarkExpired after the release: error %v, states %v; want the session, which may be another request's, still open", err, countByState(t, db))
	}
}

func TestLinger_IsOffForAPrewarmedModel(t *testing.T) {
	t.Parallel()
	db := postgres(t)
	s, provider := startNode(t, proxyroutertest.Options{})
	o := lingerOptions()
	o.Shared = true
	o.Prewarm = func() []session.Prewarm { return []session.Prewarm{{ModelID: modelA, Duration: time.Hour}} }
	m, _ := startManager(t, db, provider, o)
	waitUntil(t, "the model's idle session is open", func() bool { return countByState(t, db)["open"] == 1 })
	for range 10 {
		id := use(t, m, "anna")
		waitReleased(t, db, id)
		if err := m.Maintain(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Opens; n > 2 { // one more if a maintenance round comes while the first is in use
		t.Errorf("%d opens for a model that keeps one session ready, want at most 2", n)
	}
}

// At most four statements release leases at the same time. Releases that wait meanwhile go together
// in the next statement.
func TestRelease_GroupsWaitingReleases(t *testing.T) {
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
	waitUntil(t, "the other releases wait", func() bool { return m.Due() == 16 })
	close(resume)
	released.Wait()
	if n := statements.Load(); n != 5 {
		t.Errorf("20 releases, 16 of them while four statements were under way, took %d statements, want 5", n)
	}
}

// acquireEach acquires a session for each of n users.
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

func TestRelease_RetriesALockedRow(t *testing.T) {
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
		t.Error("the session whose row is locked was released")
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	released.Wait()
	waitReleased(t, db, list[0].SessionID())
}
