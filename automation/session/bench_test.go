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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

const (
	atOnce = 32
	turns  = time.Second
)

// BenchmarkClaimAndRelease is measured against pgbench, which runs the same
// statements in the same transactions from as many clients, in turn on the same
// server: go test -run '^$' -bench Claim -benchtime 3x ./automation/session
func BenchmarkClaimAndRelease(b *testing.B) {
	for _, rows := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprint(rows, " rows"), func(b *testing.B) { benchmarkClaims(b, rows, "") })
	}
	// lib/pq then sends a statement and its parameters in one round trip.
	b.Run("1000 rows, binary_parameters", func(b *testing.B) { benchmarkClaims(b, 1_000, "&binary_parameters=yes") })
}

func benchmarkClaims(b *testing.B, rows int, option string) {
	pgbench, err := exec.LookPath("pgbench")
	if err != nil {
		b.Skip("pgbench is not installed: apt-get install postgresql-contrib")
	}
	cluster := pgtest.Start(b, pgtest.Options{Settings: map[string]string{"shared_buffers": "256MB"}})
	db := pgtest.Open(b, cluster.DSN("postgres")+option)
	db.SetMaxOpenConns(atOnce)
	db.SetMaxIdleConns(atOnce)
	if _, err := schema.Migrate(b.Context(), db); err != nil {
		b.Fatal(err)
	}
	fill(b, db, rows)
	users := rows / 20 / atOnce // of each client
	script := filepath.Join(b.TempDir(), "claim.sql")
	if err := os.WriteFile(script, []byte(fmt.Sprintf(session.ClaimScript, users-1)), 0o600); err != nil {
		b.Fatal(err)
	}
	m, err := session.New(db, nil, session.Options{Interval: time.Hour, MaxConns: atOnce})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	running(ctx, m)

	var ours, theirs, allocs float64
	for b.Loop() {
		n, a := claimFor(b, m, users, turns)
		ours, allocs = ours+n, a
		theirs += pgbenchFor(b, pgbench, script, cluster.DSN("postgres"), turns)
	}
	cancel()
	if err := <-done; err != nil {
		b.Error(err)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(ours/float64(b.N), "claims/s")
	b.ReportMetric(theirs/float64(b.N), "pgbench/s")
	b.ReportMetric(ours/theirs, "ratio")
	b.ReportMetric(allocs, "allocs/claim")
}

// claimFor claims and releases for a while, and reports how many a second.
func claimFor(b *testing.B, m *session.Manager, users int, d time.Duration) (perSecond, allocs float64) {
	b.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var n atomic.Int64
	var wg sync.WaitGroup
	begun := time.Now()
	for client := range atOnce {
		wg.Go(func() {
			for time.Since(begun) < d {
				c, err := m.Acquire(b.Context(), session.Request{UserID: fmt.Sprint("user-", 1+client+atOnce*rand.IntN(users)), ModelID: "model", Duration: time.Hour})
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

func pgbenchFor(b *testing.B, program, script, dsn string, d time.Duration) float64 {
	b.Helper()
	out, err := exec.CommandContext(b.Context(), program, "-n", "-M", "extended", "-c", fmt.Sprint(atOnce), "-j", "2",
		"-T", fmt.Sprint(max(1, int(d.Seconds()))), "-f", script, dsn).CombinedOutput()
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
