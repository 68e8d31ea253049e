package session_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// BenchmarkClaimAndRelease is measured against pgbench, which sends the same messages from as
// many clients to the same server. Each iteration is a round of both, with as many claims each;
// the medians of the rounds are reported, and that of their ratios:
//
//	AUTOMATION_TEST_LONG=1 go test ./automation/session -run xxx -bench ClaimAndRelease -benchtime 11x
//
// Otherwise it only shows that it runs, on the small table.
func BenchmarkClaimAndRelease(b *testing.B) {
	for _, rows := range benchmarkRows() {
		b.Run(fmt.Sprint("rows=", rows), func(b *testing.B) {
			pgbench, err := exec.LookPath("pgbench")
			if err != nil {
				b.Skip("pgbench is not installed: apt-get install postgresql-contrib")
			}
			cluster := pgtest.Start(b, pgtest.Options{Settings: map[string]string{"shared_buffers": "256MB", "max_connections": "600"}})
			dsn := cluster.DSN("postgres")
			db := pgtest.Open(b, dsn)
			if _, err := schema.Migrate(b.Context(), db); err != nil {
				b.Fatal(err)
			}
			users := insertUsers(b, db, rows)
			for _, clients := range []int{1, 32, 256} {
				b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
					benchmarkClaims(b, pgbench, dsn, clients, users/clients)
				})
			}
		})
	}
}

// benchmarkRows are the sizes of the table.
func benchmarkRows() []int {
	if isLongRun() {
		return []int{1_000, 1_000_000}
	}
	return []int{1_000}
}

// insertUsers inserts that many rows, and returns of how many users, from user-1 on, each has an
// open session.
func insertUsers(b *testing.B, db *sqlx.DB, rows int) int {
	b.Helper()
	insertSessions(b, db, rows)
	if rows > 1_000 {
		return rows / 20
	}
	// A user for each of 256 clients: all sessions are open.
	if _, err := db.ExecContext(b.Context(), `UPDATE automation_sessions SET state = 'open', closed_at = NULL, user_id = 'user-' || substr(id, 4)::int - 19,
		owner_id = 'user-' || substr(id, 4)::int - 19, ends_at = now() + interval '1 day', next_at = now() + interval '1 day'`); err != nil {
		b.Fatal(err)
	}
	return rows
}

// benchmarkClaims has each client claim the sessions of users of its own.
func benchmarkClaims(b *testing.B, pgbench, dsn string, clients, users int) {
	script := filepath.Join(b.TempDir(), "claim.sql")
	if err := os.WriteFile(script, []byte(claimScript(b, dsn, clients, users)), 0o600); err != nil {
		b.Fatal(err)
	}
	db := pgtest.Open(b, dsn)
	db.SetMaxOpenConns(clients)
	db.SetMaxIdleConns(clients)
	m := runManager(b, db, clients)
	runClaims(b, m, clients, users, 1) // connections
	// Pgbench connects in each round, and a connection's first claim takes several times as long.
	each := max(50, 3200/clients)
	if !isLongRun() {
		each = 1
	}
	var ours, theirs, ratios, oursCPU, theirsCPU, allocs []float64
	for n := 0; b.Loop(); n++ {
		var o, t roundResult
		for _, pgbenchNow := range []bool{n%2 == 0, n%2 != 0} { // what changes while a round lasts hits each as often
			if pgbenchNow {
				t = runPgbench(b, pgbench, script, dsn, clients, each)
			} else {
				o = runClaims(b, m, clients, users, each)
			}
		}
		ours, theirs, ratios = append(ours, o.perSecond), append(theirs, t.perSecond), append(ratios, o.perSecond/t.perSecond)
		oursCPU, theirsCPU, allocs = append(oursCPU, o.cpu), append(theirsCPU, t.cpu), append(allocs, o.allocs)
	}
	b.ReportMetric(0, "ns/op")
	if !isLongRun() {
		return
	}
	b.ReportMetric(median(ours), "claims/s")
	b.ReportMetric(median(theirs), "pgbench/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(oursCPU), "client-µs/claim")
	b.ReportMetric(median(theirsCPU), "pgbench-µs/claim")
	b.ReportMetric(median(allocs), "allocs/claim")
}

// roundResult is what one round of claims and releases took.
type roundResult struct {
	took        time.Duration
	perSecond   float64
	cpu, allocs float64 // of the client, a claim and its release; µs
}

func runManager(b *testing.B, db *sqlx.DB, conns int) *session.Manager {
	b.Helper()
	m, err := session.New(db, &fakeNode{}, session.Options{Interval: time.Hour, MaxConns: conns})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	waitStarted(b.Context(), m)
	return m
}

var (
	tokenLiteral = regexp.MustCompile(`E'[A-Z2-7]{26}'`)
	rowLiteral   = regexp.MustCompile(`E'id-[0-9]+'`)
)

// claimScript is a claim and a release as a script for pgbench: the messages that a manager
// sends, taken from the wire, with variables for the user, the token and the row.
func claimScript(b *testing.B, dsn string, clients, users int) string {
	b.Helper()
	proxy := pgtest.NewProxy(b, dsn)
	m := runManager(b, pgtest.Open(b, proxy.DSN()), 1)
	proxy.TakeTraffic()
	c, err := m.Acquire(b.Context(), session.Request{UserID: "user-1", ModelID: "model", Duration: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	c.Release()
	var claim, release string
	for query := range proxy.TakeTraffic().Queries {
		// Pgbench sends the statements that \; separates in one message.
		query = strings.ReplaceAll(strings.Join(strings.Fields(query), " "), "; ", " \\; ")
		query = strings.ReplaceAll(tokenLiteral.ReplaceAllString(query, "'token-:t'"), "E'user-1'", "'user-:n'")
		switch {
		case strings.Contains(query, "RETURNING"):
			claim = query
		case strings.Contains(query, "UPDATE automation_sessions"):
			release = rowLiteral.ReplaceAllString(query, "':id'")
		}
	}
	if claim == "" || release == "" || !strings.Contains(claim, "token-:t") || !strings.Contains(release, ":id") {
		b.Fatalf("not the messages of a claim and a release:\n%s\n%s", claim, release)
	}
	return fmt.Sprintf("\\set n 1 + :client_id + %d * random(0, %d)\n\\set t random(1, 1000000000)\n%s \\gset\n%s;\n", clients, users-1, claim, release)
}

// runClaims has each client claim and release that many times.
func runClaims(b *testing.B, m *session.Manager, clients, users, each int) roundResult {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	cpu, begun := processCPU(b), time.Now()
	for client := range clients {
		wg.Go(func() {
			for range each {
				c, err := m.Acquire(b.Context(), session.Request{UserID: fmt.Sprint("user-", 1+client+clients*rand.IntN(users)), ModelID: "model", Duration: time.Hour})
				if err != nil {
					b.Error(err)
					return
				}
				c.Release()
			}
		})
	}
	wg.Wait()
	took, n := time.Since(begun), float64(clients*each)
	cpu = processCPU(b) - cpu
	runtime.ReadMemStats(&after)
	return roundResult{took, n / took.Seconds(), float64(cpu.Microseconds()) / n, float64(after.Mallocs-before.Mallocs) / n}
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var perSecond = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// runPgbench has each client run the script that many times. The rate is without the time that
// connections take. With a time limit a busy machine may not even make 256 of them.
func runPgbench(b *testing.B, program, script, dsn string, clients, each int) roundResult {
	b.Helper()
	command := exec.CommandContext(b.Context(), program, "-n", "-M", "simple", "-c", fmt.Sprint(clients), "-j", fmt.Sprint(min(clients, 2)),
		"-t", fmt.Sprint(each), "-f", script, dsn)
	out, err := command.CombinedOutput()
	match := perSecond.FindSubmatch(out)
	if err != nil || match == nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	tps, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	cpu := command.ProcessState.UserTime() + command.ProcessState.SystemTime()
	return roundResult{perSecond: tps, cpu: float64(cpu.Microseconds()) / float64(clients*each)}
}
