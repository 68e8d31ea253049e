package session_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// offsetClock is a clock that differs from the true one by what a test sets.
type offsetClock struct{ offset atomic.Int64 }

func (c *offsetClock) now() time.Time      { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *offsetClock) set(d time.Duration) { c.offset.Store(int64(d)) }

func TestManager_LeavesNothingBehindWhenKilledInAClose(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	var nodeClock offsetClock
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{Now: nodeClock.now, CloseLatency: 20 * time.Millisecond})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{CloseAfter: time.Millisecond}}
	kills := 4
	if isLongRun() {
		kills = 40
	}
	const sessions = 60
	m, stop := startManager(t, db, newClient(t, n), config.Options.session())
	var wg sync.WaitGroup
	for _, user := range names("user", sessions) {
		wg.Go(func() { use(t, m, user) })
	}
	wg.Wait()
	stop()
	nodeClock.set(2 * time.Hour)
	if _, err := db.Exec(`UPDATE automation_sessions SET ends_at = ends_at - interval '2 hours', next_at = next_at - interval '2 hours'`); err != nil {
		t.Fatal(err)
	}
	c := config
	c.Failpoint, c.Options.Lease = "during-close", 3*time.Second
	for range kills / 2 {
		a, b := startReplica(t, c), startReplica(t, c)
		a.waitKilled(t)
		b.waitKilled(t)
		// The next two replicas close the rest, and these sessions once their leases have ended.
	}
	_, stop = startManager(t, db, newClient(t, n), config.Options.session())
	waitUntil(t, "every session is closed", func() bool { return countByState(t, db)["closed"] == sessions })
	stop()
	audit(t, db, n, 1)
	if s := n.Stats(); s.Closes != sessions || s.OpenNow != 0 {
		t.Errorf("%d closes, %d still open; want each of %d closed once", s.Closes, s.OpenNow, sessions)
	}
}

// use acquires a session and releases it, and returns its id.
func use(t *testing.T, m *session.Manager, user string) (id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := acquireWithRetry(ctx, m, requestFor(user))
	if err != nil {
		t.Errorf("a request of %s: %v", user, err)
		return ""
	}
	c.Release()
	return c.SessionID()
}

// The replies to some COMMITs are lost, so that the manager cannot know whether they were applied.
func TestAcquire_PaysOnceWhenRepliesToCommitsAreLost(t *testing.T) {
	skipShort(t)
	t.Parallel()
	dsn := schematest.Database(t)
	db := pgtest.Open(t, dsn)
	proxy := pgtest.NewProxy(t, dsn)
	n, node := startNode(t, proxyroutertest.Options{OpenLatency: 5 * time.Millisecond})
	o := testOptions()
	o.MaxPerUser = 1
	m, stop := startManager(t, pgtest.Open(t, proxy.DSN()), node, o)
	proxy.LoseReplies(func(tag string) bool { return tag == "COMMIT" && rand.IntN(8) == 0 })
	users := names("user", 30)
	var wg sync.WaitGroup
	for _, user := range users {
		for range 4 {
			wg.Go(func() { use(t, m, user) })
		}
	}
	wg.Wait()
	proxy.LoseReplies(nil)
	stop()
	_, stop = startManager(t, db, node, o)
	audit(t, db, n, 1)
	stop()
	if s := n.Stats(); s.Opens != len(users) || proxy.Lost() < 10 {
		t.Errorf("%d opens with %d replies lost; want %d, one a user, with at least 10 lost", s.Opens, proxy.Lost(), len(users))
	}
	t.Logf("%d replies to COMMITs lost", proxy.Lost())
}

func TestManager_ToleratesClocksTenMinutesApart(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	var nodeClock offsetClock
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{Now: nodeClock.now, ChunkDelay: 10 * time.Millisecond})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1, CloseAfter: 100 * time.Millisecond, Margin: time.Second}}
	m, stop := startManager(t, db, newClient(t, n), config.Options.session())
	users := names("user", 5)
	for _, user := range users {
		use(t, m, user)
	}
	stop()
	// The clocks advance until three seconds before the last session ends, so that it
	// ends while the replicas use it. The others are shorter and have ended by then.
	var last time.Time
	for _, s := range n.Stats().Sessions {
		last = slices.MaxFunc([]time.Time{last, s.EndsAt}, time.Time.Compare)
	}
	passed := time.Until(last).Truncate(time.Second) - 3*time.Second
	nodeClock.set(passed)
	if _, err := db.Exec(`UPDATE automation_sessions SET ends_at = ends_at - make_interval(secs => $1), next_at = next_at - make_interval(secs => $1)`, passed.Seconds()); err != nil {
		t.Fatal(err)
	}
	var replicas []*replica
	for _, off := range []time.Duration{-10 * time.Minute, 0, 10 * time.Minute} {
		config.Clock = off
		r := startReplica(t, config)
		r.Send(t, work{Users: users, Models: []string{modelA}, Forever: true})
		replicas = append(replicas, r)
	}
	waitUntil(t, "the old sessions are closed and new ones used", func() bool {
		s := n.Stats()
		return s.Closes == len(users) && s.Opens == 2*len(users)
	})
	for _, r := range replicas {
		r.CloseInput()
		if rep := r.readReport(t); rep.Served == 0 || len(rep.Errors) > 0 {
			t.Errorf("a replica served %d requests, errors %v; want some and no error", rep.Served, rep.Errors)
		}
		r.stop(t)
	}
	audit(t, db, n, 2)
}

func TestAcquire_SerialisesACollidingBurstOverFiveReplicas(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{OpenLatency: 60 * time.Millisecond, CollisionWindow: 30 * time.Millisecond})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1, OpenTimeout: testTimeout}}
	var replicas []*replica
	for range 5 {
		replicas = append(replicas, startReplica(t, config))
	}
	begun := time.Now()
	for i, r := range replicas {
		r.Send(t, work{Users: names(fmt.Sprint("replica-", i), 10), Models: modelIDs(1)})
	}
	var slowest time.Duration
	for _, r := range replicas {
		rep := r.readReport(t)
		if rep.Served != 10 {
			t.Errorf("a replica served %d of 10 requests, errors %v", rep.Served, rep.Errors)
		}
		slowest = max(slowest, rep.Slowest)
	}
	for _, r := range replicas {
		r.stop(t)
	}
	audit(t, db, n, 1)
	s := n.Stats()
	if s.Opens != 50 || s.OpenRequests > 100 || s.Collisions == 0 {
		t.Errorf("%d opens from %d calls, %d collisions; want 50 opens, at most one retry each, and a collision", s.Opens, s.OpenRequests, s.Collisions)
	}
	t.Logf("%d collisions, the slowest of 50 requests took %v, all of them %v", s.Collisions, slowest.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
}

func TestAcquire_TakesADeadReplicasSessionAfterItsLease(t *testing.T) {
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1, Lease: 2 * time.Second}}
	r := startReplica(t, config)
	r.Send(t, work{Users: []string{"alice"}, Models: []string{modelA}, Hold: true})
	if _, ok := r.Line(); !ok {
		t.Fatal("the replica claimed no session")
	}
	m, _ := startManager(t, db, newClient(t, n), testOptions())
	r.Kill()
	var leaseEnd time.Time
	if err := db.Get(&leaseEnd, `SELECT lease_until FROM automation_sessions`); err != nil {
		t.Fatal(err)
	}
	use(t, m, "alice")
	var now time.Time
	if err := db.Get(&now, `SELECT now()`); err != nil {
		t.Fatal(err)
	}
	if now.Before(leaseEnd) {
		t.Errorf("a dead replica's session was claimed at %v, before its lease ended at %v", now, leaseEnd)
	}
	audit(t, db, n, 1)
}

func TestAcquire_EndsByItsDeadlineWhileTheDatabaseIsFrozen(t *testing.T) {
	skipShort(t)
	cluster := pgtest.Start(t, pgtest.Options{})
	db := pgtest.Open(t, cluster.DSN("postgres"))
	schematest.Migrate(t, db)
	n, node := startNode(t, proxyroutertest.Options{})
	o := testOptions()
	o.Lease = 3 * time.Second
	o.SetSQLTimeout(5 * time.Second) // so that every statement fails before the thaw
	m, stop := startManager(t, db, node, o)
	held, err := m.Acquire(t.Context(), requestFor("holder"))
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range names("user", 10) {
		use(t, m, user)
	}
	before := runtime.NumGoroutine()
	cluster.Freeze()
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			deadline := time.Duration(200+i*50) * time.Millisecond
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			c, err := m.Acquire(ctx, requestFor(fmt.Sprintf("user-%d", i%12)))
			if c != nil || err == nil || errors.Is(err, session.ErrNotRunning) {
				t.Errorf("with a frozen database a request got %v, error %v; want an error by its deadline", c, err)
			}
		})
	}
	wg.Wait()
	<-held.Context().Done()
	if !errors.Is(context.Cause(held.Context()), session.ErrLeaseLost) {
		t.Errorf("the context of a claim ended with %v, want ErrLeaseLost", context.Cause(held.Context()))
	}
	held.Release()
	// All requests have ended while the database was frozen. Afterwards it serves again.
	cluster.Thaw()
	for _, user := range append(names("user", 10), "holder") {
		use(t, m, user)
	}
	waitUntil(t, "no more goroutines run than before the freeze", func() bool { return runtime.NumGoroutine() <= before+5 })
	audit(t, db, n, 4)
	stop()
}

// endedSessions is a provider for a test that inserts rows: the sessions of these rows have ended.
// Those that it opens last two hours.
type endedSessions struct {
	session.Provider
	closes, opens atomic.Int64
}

func (p *endedSessions) CloseSession(context.Context, string) error { p.closes.Add(1); return nil }

func (p *endedSessions) OpenSession(context.Context, session.OpenRequest) (string, error) {
	return fmt.Sprintf("0xnew%d", p.opens.Add(1)), nil
}

func (p *endedSessions) GetSession(_ context.Context, id string) (session.ChainSession, error) {
	if !strings.HasPrefix(id, "0xnew") {
		return session.ChainSession{ID: id, Provider: "0xp", OpenedAt: time.Now().Add(-time.Hour), EndsAt: time.Now().Add(-time.Hour)}, nil
	}
	return session.ChainSession{ID: id, Provider: "0xp", OpenedAt: time.Now(), EndsAt: time.Now().Add(2 * time.Hour)}, nil
}

func (p *endedSessions) WalletSessions(context.Context, time.Time) ([]session.ChainSession, error) {
	return nil, nil
}

func TestMaintain_ClosesThousandsWithFewStatementsEach(t *testing.T) {
	skipShort(t)
	t.Parallel()
	sessions := 2000
	if isLongRun() {
		sessions = 10000
	}
	db := postgres(t)
	var statements atomic.Int64
	p := &endedSessions{}
	const maxOpen = 40
	o := testOptions()
	o.CloseAfter, o.Interval, o.MaxPerUser, o.MaxOpen = time.Millisecond, time.Hour, 1, maxOpen // the test starts each round
	o.Renew = func(context.Context, string) (time.Duration, bool) { return time.Hour, true }
	o.Lease = time.Hour // no heartbeats, whose statements would be counted
	o.ObserveSQL = func(string, time.Duration, time.Duration, error) { statements.Add(1) }
	insertEnded := func(prefix string, n int) {
		t.Helper()
		if _, err := db.Exec(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, provider, created_at, called_at, opened_at, ends_at, last_used_at, next_at)
			SELECT CAST($1 AS text) || i, CAST($1 AS text) || i, 'model', 'user-' || i, 'user-' || i, now(), 3600, 'open', '0xp', now(), now(), now(), now() - interval '1 second', now(), now() - interval '1 second'
			FROM generate_series(1, $2) i`, prefix, n); err != nil {
			t.Fatal(err)
		}
	}
	var managers []*session.Manager
	for range 3 {
		m, _ := startManager(t, db, p, o)
		managers = append(managers, m)
	}
	maintainAll := func() {
		var wg sync.WaitGroup
		for _, m := range managers {
			wg.Go(func() {
				if err := m.Maintain(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	statements.Store(0)
	const oneByOne = 20
	for i := range oneByOne {
		insertEnded(fmt.Sprint("single", i, "-"), 1)
		if err := managers[i%3].Maintain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	single := float64(statements.Swap(0)) / oneByOne
	insertEnded("together", sessions)
	maintainAll()
	together := float64(statements.Load()) / float64(sessions)
	if got := p.closes.Load(); got != int64(sessions+oneByOne) {
		t.Errorf("%d closes, want one for each of %d sessions", got, sessions+oneByOne)
	}
	if together > 2*single {
		t.Errorf("%.2f statements a session if all end together, %.2f if they end one by one; want at most twice as many", together, single)
	}
	var wg sync.WaitGroup
	var refused atomic.Int64
	for i, user := range names("user", 200) {
		wg.Go(func() {
			c, err := managers[i%3].Acquire(t.Context(), requestFor(user))
			if b, ok := errors.AsType[*session.BudgetError](err); ok && b.Limit == session.LimitTotal {
				refused.Add(1)
			} else if err != nil {
				t.Error(err)
			} else {
				c.Release()
			}
		})
	}
	wg.Wait()
	if p.opens.Load() != maxOpen || refused.Load() != 200-maxOpen {
		t.Errorf("%d opens and %d refusals of 200 requests, want %d opens", p.opens.Load(), refused.Load(), maxOpen)
	}
	t.Logf("statements a session: %.2f together, %.2f one by one", together, single)
}
