package session_test

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// skipShort skips a test that takes seconds if go test runs with -short.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow; run without -short")
	}
}

// onBothDatabases runs a test on SQLite and on PostgreSQL, in parallel.
func onBothDatabases(t *testing.T, fn func(t *testing.T, db *sqlx.DB)) {
	t.Helper()
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		fn(t, schematest.SQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		fn(t, postgres(t))
	})
}

// postgres returns a pool on a migrated PostgreSQL database of the test's own.
func postgres(t *testing.T) *sqlx.DB {
	t.Helper()
	db, _ := postgresWithDSN(t)
	return db
}

// postgresWithDSN makes a migrated PostgreSQL database and returns a pool for the
// test and the DSN for replicas in other processes. With AUTOMATION_TEST_POOLER=1
// managers and replicas connect through PgBouncer, the test still directly.
func postgresWithDSN(t *testing.T) (db *sqlx.DB, dsn string) {
	t.Helper()
	dsn = schematest.Database(t)
	db = pgtest.Open(t, dsn)
	if os.Getenv("AUTOMATION_TEST_POOLER") == "1" {
		dsn = pgtest.PgBouncer(t, dsn)
		pooledDBs.Store(db, pgtest.Open(t, dsn))
		t.Cleanup(func() { pooledDBs.Delete(db) })
	}
	return db, dsn
}

var pooledDBs sync.Map // of *sqlx.DB to the same database through a pooler

// managerDB returns the pool that managers use for the test's pool db.
func managerDB(db *sqlx.DB) *sqlx.DB {
	if p, ok := pooledDBs.Load(db); ok {
		return p.(*sqlx.DB)
	}
	return db
}

// testTimeout bounds how long a test waits for what must happen. It measures
// nothing: a machine at a load of 50 must stay within it.
const testTimeout = 5 * time.Minute

// testOptions returns options with short intervals, and with leases and time-outs
// that are long enough for a busy machine and a slow database. A test that waits for
// a lease or a time-out to end sets a shorter one.
func testOptions() session.Options {
	o := session.Options{MaxPerUser: 4, Interval: 100 * time.Millisecond, AcquireTimeout: testTimeout, Lease: time.Minute,
		OpenTimeout: testTimeout, ReconcileTimeout: testTimeout, DrainTimeout: time.Minute, CoolDown: 500 * time.Millisecond, Linger: 300 * time.Millisecond}
	o.SetSQLTimeout(time.Minute)
	if os.Getenv("SESSION_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// startManager runs a manager until the test ends or calls stop.
func startManager(t *testing.T, db *sqlx.DB, p session.Provider, o session.Options) (m *session.Manager, stop func()) {
	t.Helper()
	m, err := session.New(managerDB(db), p, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	waitStarted(t.Context(), m)
	return m, stop
}

// startNode starts a simulated node and returns it with a client for it.
func startNode(t *testing.T, o proxyroutertest.Options) (*proxyroutertest.Server, *proxyrouter.Client) {
	t.Helper()
	s := proxyroutertest.NewServer(t, o)
	return s, newClient(t, s)
}

func newClient(t *testing.T, s *proxyroutertest.Server) *proxyrouter.Client {
	t.Helper()
	return newClientWithTimeout(t, s, testTimeout)
}

// newClientWithTimeout returns a client that gives up an open after openTimeout.
func newClientWithTimeout(t *testing.T, s *proxyroutertest.Server, openTimeout time.Duration) *proxyrouter.Client {
	t.Helper()
	c, err := proxyrouter.New(proxyrouter.Options{URL: s.URL, OpenTimeout: openTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

var modelA = proxyroutertest.ModelID("llama")

// requestFor returns a request of the user for one hour of modelA.
func requestFor(user string) session.Request { return requestForModel(user, modelA) }

func requestForModel(user, model string) session.Request {
	return session.Request{UserID: user, ModelID: model, Duration: time.Hour}
}

// countByState returns the number of rows in each state that occurs.
func countByState(t *testing.T, db *sqlx.DB) map[string]int {
	t.Helper()
	var list []struct {
		State string `db:"state"`
		N     int    `db:"n"`
	}
	if err := db.Select(&list, `SELECT state, count(*) AS n FROM automation_sessions GROUP BY state`); err != nil {
		t.Fatal(err)
	}
	m := map[string]int{}
	for _, r := range list {
		m[r.State] = r.N
	}
	return m
}

// waitUntil polls until ok returns true, and fails the test after testTimeout. The
// failure names the condition.
func waitUntil(t *testing.T, condition string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("timed out after %v waiting until %s", testTimeout, condition)
		}
	}
}

// checkInvariants asserts what no fault may break: a session never serves two
// requests at once, no request uses a session that does not exist, no session is
// closed early, and every session of the node has one row in the database.
func checkInvariants(t *testing.T, db *sqlx.DB, s proxyroutertest.Stats) {
	t.Helper()
	if s.Overlaps != 0 || s.Unknown != 0 || s.EarlyCloses != 0 || s.ClosedInUse != 0 {
		t.Errorf("the node counts %d overlapping requests, %d requests on unknown sessions, %d early closes, %d closes in use; want none", s.Overlaps, s.Unknown, s.EarlyCloses, s.ClosedInUse)
	}
	for _, c := range s.Sessions {
		var n int
		if err := db.Get(&n, `SELECT count(*) FROM automation_sessions WHERE session_id = $1`, c.ID); err != nil || n != 1 {
			t.Errorf("session %s of the node has %d rows, error %v; want 1 row", c.ID, n, err)
		}
	}
}

// eventLog records a manager's events: its method add is an Options.Observe.
type eventLog struct {
	mu     sync.Mutex
	events []session.Event
}

func (l *eventLog) add(e session.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) count(k session.Kind, result string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Kind == k && e.Result == result {
			n++
		}
	}
	return n
}
