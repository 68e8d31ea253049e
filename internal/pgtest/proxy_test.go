package pgtest_test

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jmoiron/sqlx"
)

// commitRow inserts a row in a transaction of its own.
func commitRow(t *testing.T, db *sqlx.DB) error {
	t.Helper()
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(t.Context(), "INSERT INTO journal DEFAULT VALUES"); err != nil {
		t.Error(tx.Rollback())
		return err
	}
	return tx.Commit()
}

// journal makes an empty table journal and returns a pool through a proxy, and a direct one.
func journal(t *testing.T) (p *pgtest.Proxy, proxied, direct *sqlx.DB) {
	t.Helper()
	dsn := pgtest.Database(t)
	p, direct = pgtest.NewProxy(t, dsn), pgtest.Open(t, dsn)
	execute(t, direct, "CREATE TABLE journal (id bigserial)")
	return p, pgtest.Open(t, p.DSN()), direct
}

// rows returns the number of rows of journal.
func rows(t *testing.T, db *sqlx.DB) int {
	t.Helper()
	return scalar[int](t, db, "SELECT count(*) FROM journal")
}

func TestProxy_LosesTheReplyToACommitThatIsApplied(t *testing.T) {
	t.Parallel()
	p, proxied, direct := journal(t)
	p.LoseCommits(2)
	for i, wantErr := range []bool{true, true, false} {
		if err := commitRow(t, proxied); (err != nil) != wantErr {
			t.Errorf("commit %d: error %v, want an error: %t", i+1, err, wantErr)
		}
		if got := rows(t, direct); got != i+1 {
			t.Errorf("after commit %d: %d rows, want each commit applied", i+1, got)
		}
	}
	if p.Lost() != 2 {
		t.Errorf("%d replies lost, want 2", p.Lost())
	}
}

func TestProxy_LosesTheReplyToAnAutocommitStatementThatIsApplied(t *testing.T) {
	t.Parallel()
	p, proxied, direct := journal(t)
	p.LoseReplies(func(tag string) bool { return strings.HasPrefix(tag, "INSERT ") && p.Lost() == 0 })
	_, err := proxied.ExecContext(t.Context(), "INSERT INTO journal SELECT $1", 7)
	// With lib/pq database/sql repeats the statement, with pgx it does not.
	want := 1
	if err == nil {
		want = 2
	}
	if got := rows(t, direct); got != want || p.Lost() != 1 {
		t.Errorf("error %v, %d rows and %d replies lost; want %d rows and 1 reply lost", err, got, p.Lost(), want)
	}
	p.LoseReplies(nil)
	if err := commitRow(t, proxied); err != nil {
		t.Errorf("a commit when no reply is lost: %v", err)
	}
}

func TestProxy_DelaysAReplyWhenMatchFreezes(t *testing.T) {
	t.Parallel()
	p, proxied, direct := journal(t)
	delayed := make(chan struct{})
	p.LoseReplies(func(tag string) bool {
		if tag == "COMMIT" {
			p.Freeze()
			close(delayed)
		}
		return false
	})
	committed := make(chan error, 1)
	go func() { committed <- commitRow(t, proxied) }()
	<-delayed
	if got := rows(t, direct); got != 1 {
		t.Errorf("%d rows while the reply is delayed, want 1", got)
	}
	select {
	case err := <-committed:
		t.Errorf("the reply arrived while the proxy was frozen: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Thaw()
	if err := <-committed; err != nil {
		t.Errorf("after the thaw the commit failed: %v", err)
	}
}

func TestProxy_CutAllClosesEveryConnection(t *testing.T) {
	t.Parallel()
	p, proxied, _ := journal(t)
	tx, err := proxied.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Freeze() // a frozen connection can be cut
	p.CutAll()
	p.Thaw()
	if _, err := tx.ExecContext(t.Context(), "SELECT 1"); err == nil {
		t.Error("a statement on a connection that was cut succeeds")
	}
	_ = tx.Rollback() // fails, because the connection is gone
	execute(t, proxied, "SELECT 1")
}

func TestProxy_SendsLaterConnectionsToANewUpstream(t *testing.T) {
	t.Parallel()
	old, next := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"cluster_name": "old"}}),
		pgtest.Start(t, pgtest.Options{Settings: map[string]string{"cluster_name": "next"}})
	p := pgtest.NewProxy(t, old.DSN("postgres"))
	db := pgtest.Open(t, p.DSN())
	name := func() string { return scalar[string](t, db, "SHOW cluster_name") }
	if got := name(); got != "old" {
		t.Errorf("before SetUpstream the server is %s, want old", got)
	}
	p.SetUpstream(t, next.DSN("postgres"))
	if got := name(); got != "old" {
		t.Errorf("after SetUpstream an existing connection reaches %s, want old", got)
	}
	old.Kill()
	p.CutAll()
	db = pgtest.Open(t, p.DSN()) // a pooled pgx connection that was cut would fail once
	if got := name(); got != "next" {
		t.Errorf("after SetUpstream a new connection reaches %s, want next", got)
	}
	next.Stop()
	if err := pgtest.Open(t, p.DSN()).PingContext(t.Context()); err == nil {
		t.Error("the proxy answers though its server is stopped")
	}
}

func TestProxy_DeclinesEncryption(t *testing.T) {
	t.Parallel()
	dsn := pgtest.NewProxy(t, pgtest.Database(t)).DSN()
	if err := pgtest.Open(t, strings.Replace(dsn, "sslmode=disable", "sslmode=require", 1)).PingContext(t.Context()); err == nil {
		t.Error("a client that requires encryption connected")
	}
	if err := pgtest.Open(t, dsn).PingContext(t.Context()); err != nil {
		t.Errorf("a client without encryption: %v", err)
	}
}

func TestProxy_ForwardsCancelRequests(t *testing.T) {
	t.Parallel()
	_, proxied, direct := journal(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn, err := proxied.Connx(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	execute(t, direct, "SELECT pg_advisory_lock(1)") // held by a connection of direct
	waiting := make(chan error, 1)
	go func() { _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock(1)"); waiting <- err }()
	waiters := func() int {
		return scalar[int](t, direct, "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted")
	}
	for waiters() == 0 {
		runtime.Gosched()
	}
	cancel()
	if err := <-waiting; err == nil {
		t.Error("a cancelled statement succeeds")
	}
	for waiters() != 0 { // until the cancel request has arrived
		runtime.Gosched()
	}
}

func TestProxy_CountsWhatCrossesIt(t *testing.T) {
	t.Parallel()
	p, proxied, _ := journal(t)
	conn, err := proxied.Connx(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := p.TakeTraffic(); got.Connections != 1 || got.RoundTrips != got.Statements {
		t.Errorf("a new connection counts as %+v, want 1 connection, and a round trip for each statement of the driver", got)
	}
	for query, want := range map[string]pgtest.Traffic{
		"INSERT INTO journal DEFAULT VALUES": {RoundTrips: 1, Statements: 1},
		"SELECT 1; SELECT 2":                 {RoundTrips: 1, Statements: 2},
	} {
		// Without parameters lib/pq uses the simple protocol, and pgx does in this mode.
		args := []any{}
		if os.Getenv("AUTOMATION_TEST_DRIVER") == "pgx" {
			args = append(args, pgx.QueryExecModeSimpleProtocol)
		}
		if _, err := conn.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
		want.Queries = map[string]int{query: 1}
		if diff := cmp.Diff(want, p.TakeTraffic()); diff != "" {
			t.Errorf("traffic of %s (-want +got)\n%s", query, diff)
		}
	}
	const bound = "SELECT $1::int"
	for range 3 {
		var n int
		if err := conn.GetContext(t.Context(), &n, bound, 7); err != nil || n != 7 {
			t.Fatalf("%s returns %d, error %v; want 7", bound, n, err)
		}
	}
	got := p.TakeTraffic()
	if got.Statements != 3 || got.Queries[bound] != 3 || got.RoundTrips < 3 {
		t.Errorf("three executions count as %+v, want 3 statements, 3 queries and at least 3 round trips", got)
	}
	if text := got.FormatQueries(); !strings.Contains(text, "   3 × "+bound+"\n") {
		t.Errorf("the queries are listed as %q, want 3 times %s", text, bound)
	}
}

func TestProxy_AddsItsLatencyToEachRoundTrip(t *testing.T) {
	t.Parallel()
	const latency = 20 * time.Millisecond
	p, proxied, _ := journal(t)
	execute(t, proxied, "SELECT 1")
	p.SetLatency(latency)
	begun := time.Now()
	for range 3 {
		execute(t, proxied, "SELECT 1")
	}
	if took := time.Since(begun); took < 3*latency {
		t.Errorf("three round trips took %v, want at least %v", took, 3*latency)
	}
}
