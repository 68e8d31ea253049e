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
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// offsetClock is a node's clock that a test can set.
type offsetClock struct{ offset atomic.Int64 }

func (c *offsetClock) now() time.Time      { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *offsetClock) set(d time.Duration) { c.offset.Store(int64(d)) }

func TestManager_LeavesNothingBehindWhenKilledInAClose(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	var chain offsetClock
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{Now: chain.now, CloseLatency: 20 * time.Millisecond})
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
	chain.set(2 * time.Hour)
	if _, err := db.Exec(`UPDATE automation_sessions SET ends_at = ends_at - interval '2 hours', next_at = next_at - interval '2 hours'`); err != nil {
		t.Fatal(err)
	}
	c := config
	c.Failpoint, c.Options.Lease = "during-close", 3*time.Second
	for range kills / 2 {
		a, b := startReplica(t, c), startReplica(t, c)
		a.waitKilled(t)
		b.waitKilled(t)
		// Its sessions are taken over when the leases end, so that the next ones find some.
	}
	_, stop = startManager(t, db, newClient(t, n), config.Options.session())
	waitUntil(t, "every session is closed", func() bool { return countByState(t, db)["closed"] == sessions })
	stop()
	audit(t, db, n, 1)
	if s := n.Stats(); s.Closes != sessions || s.OpenNow != 0 {
		t.Errorf("%d closes, %d still open; want each of %d closed once", s.Closes, s.OpenNow, sessions)
	}
}

// use makes one request. A busy machine's database may take longer than a
// statement may: then it is made again.
func use(t *testing.T, m *session.Manager, user string) (id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	c, err := m.Acquire(ctx, requestFor(user))
	for errors.Is(err, sqldb.ErrUnavailable) && ctx.Err() == nil {
		c, err = m.Acquire(ctx, requestFor(user))
	}
	if err != nil {
		t.Errorf("%s: %v", user, err)
		return ""
	}
	c.Release()
	return c.SessionID()
}

func TestAcquire_PaysOnceWhenRepliesToCommitsAreLost(t *testing.T) {
	skipShort(t)
	t.Parallel()
	dsn := schematest.Database(t)
	db := migrated(t, pgtest.Open(t, dsn))
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
		t.Errorf("%d opens for %d users with a cap of 1, %d replies lost", s.Opens, len(users), proxy.Lost())
	}
	t.Logf("%d replies to COMMITs lost", proxy.Lost())
}

func TestManager_ToleratesClocksTenMinutesApart(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	var chain offsetClock
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{Now: chain.now, ChunkDelay: 10 * time.Millisecond})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1, CloseAfter: 100 * time.Millisecond, Margin: time.Second}}
	m, stop := startManager(t, db, newClient(t, n), config.Options.session())
	users := names("user", 5)
	for _, user := range users {
		use(t, m, user)
	}
	stop()
	// So much time passes that the last of these sessions ends while the replicas
	// use it, and the others, which have lengths of their own, before.
	var last time.Time
	for _, s := range n.Stats().Sessions {
		last = slices.MaxFunc([]time.Time{last, s.EndsAt}, time.Time.Compare)
	}
	passed := time.Until(last).Truncate(time.Second) - 3*time.Second
	chain.set(passed)
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
			t.Errorf("%d served, %v", rep.Served, rep.Errors)
		}
		r.stop(t)
	}
	audit(t, db, n, 2)
}

func TestAcquire_SerialisesABurstThatCollidesOverFiveReplicas(t *testing.T) {
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
			t.Errorf("%d of 10 served: %v", rep.Served, rep.Errors)
		}
		slowest = max(slowest, rep.Slowest)
	}
	for _, r := range replicas {
		r.stop(t)
	}
	audit(t, db, n, 1)
	s := n.Stats()
	if s.Opens != 50 || s.OpenRequests > 100 || s.Collisions == 0 {
		t.Errorf("%d opens of %d asked for, %d collisions; want 50 and one retry each at most", s.Opens, s.OpenRequests, s.Collisions)
	}
	t.Logf("%d collisions, the last of 50 served after %v, all in %v", s.Collisions, slowest.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
}

func TestAcquire_TakesADeadReplicasSessionOnceItsLeaseEnds(t *testing.T) {
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1, Lease: 2 * time.Second}}
	r := startReplica(t, config)
	r.Send(t, work{Users: []string{"alice"}, Models: []string{modelA}, Hold: true})
	if _, ok := r.Line(); !ok {
		t.Fatal("no claim")
	}
	m, _ := startManager(t, db, newClient(t, n), testOptions())
	r.Kill()
	var until time.Time
	if err := db.Get(&until, `SELECT lease_until FROM automation_sessions`); err != nil {
		t.Fatal(err)
	}
	use(t, m, "alice")
	var now time.Time
	if err := db.Get(&now, `SELECT now()`); err != nil {
		t.Fatal(err)
	}
	if now.Before(until) {
		t.Errorf("a dead replica's session was claimed at %v, before its lease ended at %v", now, until)
	}
	audit(t, db, n, 1)
}

func TestAcquire_EndsByItsDeadlineWhileTheDatabaseIsFrozen(t *testing.T) {
	skipShort(t)
	cluster := pgtest.Start(t, pgtest.Options{})
	db := migrated(t, pgtest.Open(t, cluster.DSN("postgres")))
	n, node := startNode(t, proxyroutertest.Options{})
	o := testOptions()
	o.Lease = 3 * time.Second
	o.SetSQLTimeout(5 * time.Second) // what waits for the database ends while it is frozen
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
				t.Errorf("got %v, %v from a frozen database", c, err)
			}
		})
	}
	wg.Wait()
	<-held.Context().Done()
	if !errors.Is(context.Cause(held.Context()), session.ErrLeaseLost) {
		t.Errorf("the holder of a claim was told %v", context.Cause(held.Context()))
	}
	held.Release()
	// All that ended while the database was frozen; now it is back.
	cluster.Thaw()
	for _, user := range append(names("user", 10), "holder") {
		use(t, m, user)
	}
	waitUntil(t, "the goroutines are back to where they were", func() bool { return runtime.NumGoroutine() <= before+5 })
	audit(t, db, n, 4)
	stop()
}

// endedSessions is a provider whose sessions are rows that a test has made up.
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

func TestMaintain_ClosesThousandsTogetherAtTheCostOfOneByOne(t *testing.T) {
	skipShort(t)
	t.Parallel()
	sessions := 2000
	if isLongRun() {
		sessions = 10000
	}
	db := postgres(t)
	var statements atomic.Int64
	p := &endedSessions{}
	const most = 40
	o := testOptions()
	o.CloseAfter, o.Interval, o.MaxPerUser, o.MaxOpen = time.Millisecond, time.Hour, 1, most // rounds come when nudged
	o.Renew = func(context.Context, string) (time.Duration, bool) { return time.Hour, true }
	o.Lease = time.Hour // no heartbeat comes in between, and none is lost
	o.ObserveSQL = func(string, time.Duration, time.Duration, error) { statements.Add(1) }
	end := func(prefix string, n int) {
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
	round := func() {
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
		end(fmt.Sprint("single", i, "-"), 1)
		if err := managers[i%3].Maintain(t.Context()); err != nil {
			t.Error(err)
		}
	}
	usual := float64(statements.Swap(0)) / oneByOne
	end("crowd", sessions)
	round()
	crowd := float64(statements.Load()) / float64(sessions)
	if got := p.closes.Load(); got != int64(sessions+oneByOne) {
		t.Errorf("%d closes, want each of %d once", got, sessions+oneByOne)
	}
	if crowd > 2*usual {
		t.Errorf("%.2f statements a session where all end together, %.2f where one does; want at most twice", crowd, usual)
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
	if p.opens.Load() != most || refused.Load() != 200-most {
		t.Errorf("%d opens and %d refusals, want %d of 200", p.opens.Load(), refused.Load(), most)
	}
	t.Logf("statements a session: %.2f together, %.2f one by one", crowd, usual)
}
