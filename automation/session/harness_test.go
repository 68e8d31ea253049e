package session_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// skipShort skips a test that takes seconds where only a short run is asked for.
func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("slow; run without -short")
	}
}

// onBothDatabases runs a test on both databases.
func onBothDatabases(t *testing.T, fn func(t *testing.T, db *sqlx.DB)) {
	t.Helper()
	t.Parallel()
	for name, open := range map[string]func(*testing.T) *sqlx.DB{"sqlite": lite, "postgres": postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fn(t, open(t))
		})
	}
}

func lite(t *testing.T) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	return migrated(t, db)
}

func postgres(t *testing.T) *sqlx.DB {
	t.Helper()
	db, _ := postgresWithDSN(t)
	return db
}

// postgresWithDSN is a PostgreSQL, and the DSN for replicas that are processes of
// their own. With AUTOMATION_TEST_POOLER=1 the module is given connections
// through PgBouncer, while the tests look at the tables past it.
func postgresWithDSN(t *testing.T) (db *sqlx.DB, dsn string) {
	t.Helper()
	dsn = schematest.Database(t)
	db = migrated(t, pgtest.Open(t, dsn))
	if os.Getenv("AUTOMATION_TEST_POOLER") == "1" {
		dsn = pgtest.PgBouncer(t, dsn)
		pooledDBs.Store(db, pgtest.Open(t, dsn))
		t.Cleanup(func() { pooledDBs.Delete(db) })
	}
	return db, dsn
}

var pooledDBs sync.Map // of *sqlx.DB to the same database through a pooler

// managerDB is the pool that the module is given for db.
func managerDB(db *sqlx.DB) *sqlx.DB {
	if p, ok := pooledDBs.Load(db); ok {
		return p.(*sqlx.DB)
	}
	return db
}

func migrated(t *testing.T, db *sqlx.DB) *sqlx.DB {
	t.Helper()
	schematest.Migrate(t, db)
	return db
}

// testTimeout bounds how long a test waits for what must happen. Nothing is
// measured by it: a machine at a load of 50 must stay within it.
const testTimeout = 5 * time.Minute

// testOptions are options for tests that cannot wait. Leases and time-outs are long
// enough for a busy machine, the database's included; tests that wait for their
// end set shorter ones.
func testOptions() session.Options {
	o := session.Options{MaxPerUser: 4, Interval: 100 * time.Millisecond, AcquireTimeout: testTimeout, Lease: time.Minute,
		OpenTimeout: testTimeout, ReconcileTimeout: testTimeout, DrainTimeout: time.Minute, CoolDown: 500 * time.Millisecond, Linger: 300 * time.Millisecond}
	o.SetSQLTimeout(time.Minute)
	if os.Getenv("SESSION_TEST_LOG") != "" {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// startManager runs a manager until the test ends, or stop is called.
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

func startNode(t *testing.T, o proxyroutertest.Options) (*proxyroutertest.Server, *proxyrouter.Client) {
	t.Helper()
	s := proxyroutertest.NewServer(t, o)
	return s, newClient(t, s)
}

func newClient(t *testing.T, s *proxyroutertest.Server) *proxyrouter.Client {
	t.Helper()
	return newClientWithTimeout(t, s, testTimeout)
}

// newClientWithTimeout gives up an open that takes longer.
func newClientWithTimeout(t *testing.T, s *proxyroutertest.Server, open time.Duration) *proxyrouter.Client {
	t.Helper()
	c, err := proxyrouter.New(proxyrouter.Options{URL: s.URL, OpenTimeout: open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

var modelA = proxyroutertest.ModelID("llama")

func requestFor(user string) session.Request {
	return session.Request{UserID: user, ModelID: modelA, Duration: time.Hour}
}

// countByState counts rows by state.
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

// waitUntil waits for what another goroutine or replica is about to do.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// checkInvariants asserts what no fault may break: no two requests on one session,
// nothing on a session that does not exist, nothing closed early, and every
// session of the node in a row of the database.
func checkInvariants(t *testing.T, db *sqlx.DB, s proxyroutertest.Stats) {
	t.Helper()
	if s.Overlaps != 0 || s.Unknown != 0 || s.EarlyCloses != 0 || s.ClosedInUse != 0 {
		t.Errorf("overlaps %d, on unknown sessions %d, early closes %d, closed in use %d; want none", s.Overlaps, s.Unknown, s.EarlyCloses, s.ClosedInUse)
	}
	for _, c := range s.Sessions {
		var n int
		if err := db.Get(&n, `SELECT count(*) FROM automation_sessions WHERE session_id = $1`, c.ID); err != nil || n != 1 {
			t.Errorf("session %s of the node has %d rows (%v), want 1", c.ID, n, err)
		}
	}
}

// eventLog keeps events.
type eventLog struct {
	mu     sync.Mutex
	events []session.Event
}

func (o *eventLog) add(e session.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

func (o *eventLog) count(k session.Kind, result string) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		if e.Kind == k && e.Result == result {
			n++
		}
	}
	return n
}
