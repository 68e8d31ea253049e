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
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// BenchmarkClaimAndRelease is measured against pgbench, which sends the same messages from as
// many clients, in turn on the same server:
// go test -run '^$' -bench ClaimAndRelease -benchtime 3x ./automation/session
func BenchmarkClaimAndRelease(b *testing.B) {
	for _, rows := range []int{1_000, 1_000_000} {
		users := rows / 20
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
			fill(b, db, rows)
			if rows == 1_000 { // a user for each of 256 clients: all sessions are open
				users = rows
				if _, err := db.ExecContext(b.Context(), `UPDATE automation_sessions SET state = 'open', closed_at = NULL, user_id = 'user-' || substr(id, 4)::int - 19,
					owner_id = 'user-' || substr(id, 4)::int - 19, ends_at = now() + interval '1 day', next_at = now() + interval '1 day'`); err != nil {
					b.Fatal(err)
				}
			}
			for _, clients := range []int{1, 32, 256} {
				b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
					benchmarkClaims(b, pgbench, dsn, clients, users/clients)
				})
			}
		})
	}
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
	turns := time.Duration(1+clients/128) * time.Second
	var ours, theirs, allocs float64
	for b.Loop() {
		n, a := claimFor(b, m, clients, users, turns)
		ours, allocs = ours+n, a
		theirs += pgbenchFor(b, pgbench, script, dsn, clients, int(n*turns.Seconds())/clients)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours/float64(b.N), "claims/s")
	b.ReportMetric(theirs/float64(b.N), "pgbench/s")
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(allocs, "allocs/claim")
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
	running(b.Context(), m)
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
		case strings.Contains(query, "SKIP LOCKED"):
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

// claimFor claims and releases for a while, and reports how many a second.
func claimFor(b *testing.B, m *session.Manager, clients, users int, d time.Duration) (perSecond, allocs float64) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var n atomic.Int64
	var wg sync.WaitGroup
	begun := time.Now()
	for client := range clients {
		wg.Go(func() {
			for time.Since(begun) < d {
				c, err := m.Acquire(b.Context(), session.Request{UserID: fmt.Sprint("user-", 1+client+clients*rand.IntN(users)), ModelID: "model", Duration: time.Hour})
				if err != nil {
					b.Error(err)
					return
				}
				c.Release()
				n.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(begun)
	runtime.ReadMemStats(&after)
	return float64(n.Load()) / took.Seconds(), float64(after.Mallocs-before.Mallocs) / float64(n.Load())
}

var perSecond = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// pgbenchFor has each client run the script that many times, and returns how many
// a second. With a time limit a busy machine may not even make 256 connections.
func pgbenchFor(b *testing.B, program, script, dsn string, clients, each int) float64 {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), program, "-n", "-M", "simple", "-c", fmt.Sprint(clients), "-j", fmt.Sprint(min(clients, 2)),
		"-t", fmt.Sprint(max(1, each)), "-f", script, dsn).CombinedOutput()
	match := perSecond.FindSubmatch(out)
	if err != nil || match == nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	tps, err := strconv.ParseFloat(string(match[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return tps
}
