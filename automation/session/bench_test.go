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

// BenchmarkClaimAndRelease compares a manager with pgbench, which sends the same messages to the
// same server from the same number of clients. Each iteration runs one round of both, with the
// same number of claims. It reports the medians of the rounds and of their ratios:
//
//	AUTOMATION_TEST_LONG=1 go test ./automation/session -run xxx -bench ClaimAndRelease -benchtime 11x
//
// Without AUTOMATION_TEST_LONG=1 it makes one claim a client on the small table, and reports nothing.
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

// benchmarkRows returns the table sizes to measure, in rows.
func benchmarkRows() []int {
	if isLongRun() {
		return []int{1_000, 1_000_000}
	}
	return []int{1_000}
}

// insertUsers inserts that many rows and returns n: each of user-1 to user-n has an open session.
func insertUsers(b *testing.B, db *sqlx.DB, rows int) int {
	b.Helper()
	insertSessions(b, db, rows)
	if rows > 1_000 {
		return rows / 20
	}
	// 256 clients need a user each, so all sessions of the small table are open.
	if _, err := db.ExecContext(b.Context(), `UPDATE automation_sessions SET state = 'open', closed_at = NULL, user_id = 'user-' || substr(id, 4)::int - 19,
		owner_id = 'user-' || substr(id, 4)::int - 19, ends_at = now() + interval '1 day', next_at = now() + interval '1 day'`); err != nil {
		b.Fatal(err)
	}
	return rows
}

// benchmarkClaims runs the rounds. No two clients claim sessions of the same user.
func benchmarkClaims(b *testing.B, pgbench, dsn string, clients, users int) {
	script := filepath.Join(b.TempDir(), "claim.sql")
	if err := os.WriteFile(script, []byte(claimScript(b, dsn, clients, users)), 0o600); err != nil {
		b.Fatal(err)
	}
	db := pgtest.Open(b, dsn)
	db.SetMaxOpenConns(clients)
	db.SetMaxIdleConns(clients)
	m := runManager(b, db, clients)
	runClaims(b, m, clients, users, 1) // opens the pool's connections
	// pgbench connects in each round, and a connection's first claim takes several times as long,
	// so each client makes many.
	perClient := max(50, 3200/clients)
	if !isLongRun() {
		perClient = 1
	}
	var managerRates, pgbenchRates, ratios, managerCPU, pgbenchCPU, allocs []float64
	for n := 0; b.Loop(); n++ {
		var managerRound, pgbenchRound roundResult
		for _, pgbenchNow := range []bool{n%2 == 0, n%2 != 0} { // alternates which of the two runs first
			if pgbenchNow {
				pgbenchRound = runPgbench(b, pgbench, script, dsn, clients, perClient)
			} else {
				managerRound = runClaims(b, m, clients, users, perClient)
			}
		}
		managerRates, pgbenchRates, ratios = append(managerRates, managerRound.perSecond), append(pgbenchRates, pgbenchRound.perSecond), append(ratios, managerRound.perSecond/pgbenchRound.perSecond)
		managerCPU, pgbenchCPU, allocs = append(managerCPU, managerRound.cpu), append(pgbenchCPU, pgbenchRound.cpu), append(allocs, managerRound.allocs)
	}
	b.ReportMetric(0, "ns/op")
	if !isLongRun() {
		return
	}
	b.ReportMetric(median(managerRates), "claims/s")
	b.ReportMetric(median(pgbenchRates), "pgbench/s")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(managerCPU), "client-µs/claim")
	b.ReportMetric(median(pgbenchCPU), "pgbench-µs/claim")
	b.ReportMetric(median(allocs), "allocs/claim")
}

// roundResult is what one round of claims and releases cost the client.
type roundResult struct {
	perSecond float64 // claims
	cpu       float64 // µs a claim with its release
	allocs    float64 // a claim with its release; 0 for pgbench
}

// runManager runs a manager with up to conns connections until the benchmark ends.
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

// claimScript returns a pgbench script of a claim and a release: the messages that a manager
// sends, recorded by a proxy, with variables for the user, the token and the row.
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
		// pgbench sends statements that \; separates in one message.
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
		b.Fatalf("these are not the messages of a claim and a release:\n%s\n%s", claim, release)
	}
	return fmt.Sprintf("\\set n 1 + :client_id + %d * random(0, %d)\n\\set t random(1, 1000000000)\n%s \\gset\n%s;\n", clients, users-1, claim, release)
}

// runClaims makes each client claim and release a session perClient times.
func runClaims(b *testing.B, m *session.Manager, clients, users, perClient int) roundResult {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	cpu, begun := processCPU(b), time.Now()
	for client := range clients {
		wg.Go(func() {
			for range perClient {
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
	took, n := time.Since(begun), float64(clients*perClient)
	cpu = processCPU(b) - cpu
	runtime.ReadMemStats(&after)
	return roundResult{n / took.Seconds(), float64(cpu.Microseconds()) / n, float64(after.Mallocs-before.Mallocs) / n}
}

// processCPU returns the CPU time that this process has used.
func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pgbenchRate matches the rate without the time that connections take.
var pgbenchRate = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// runPgbench makes each client run the script perClient times. It sets no time limit, within which a
// busy machine might not even open 256 connections.
func runPgbench(b *testing.B, program, script, dsn string, clients, perClient int) roundResult {
	b.Helper()
	command := exec.CommandContext(b.Context(), program, "-n", "-M", "simple", "-c", fmt.Sprint(clients), "-j", fmt.Sprint(min(clients, 2)),
		"-t", fmt.Sprint(perClient), "-f", script, dsn)
	out, err := command.CombinedOutput()
	match := pgbenchRate.FindSubmatch(out)
	if err != nil || match == nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	tps, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	cpu := command.ProcessState.UserTime() + command.ProcessState.SystemTime()
	return roundResult{perSecond: tps, cpu: float64(cpu.Microseconds()) / float64(clients*perClient)}
}
