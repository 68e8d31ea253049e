package cleanup_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/pglab"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// BenchmarkCleanup removes CLEANUP_BENCH_ROWS rows, 100,000 unless set, while
// users read their settings, with two replicas that both want to clean up.
//
//	CLEANUP_BENCH_ROWS=1000000 go test -run '^$' -bench Cleanup -benchtime 1x -timeout 30m ./automation/cleanup
func BenchmarkCleanup(b *testing.B) {
	n := 100_000
	if s := os.Getenv("CLEANUP_BENCH_ROWS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	for range b.N {
		cluster := pglab.Start(b, pglab.Options{Durable: true, Settings: map[string]string{"shared_buffers": "'256MB'", "max_wal_size": "'1GB'"}})
		pool := migrated(b, pglab.Open(b, cluster.Database(b)))
		fill(b, pool, n/3)
		if _, err := pool.ExecContext(b.Context(), `VACUUM ANALYZE`); err != nil {
			b.Fatal(err)
		}
		store, err := settings.NewStore(pool, settings.Defaults{})
		if err != nil {
			b.Fatal(err)
		}
		alone := reads(b, store, n/30, func() { <-time.After(20 * time.Second) })

		var mu sync.Mutex
		var longest time.Duration
		var batches []time.Duration
		observe := func(name string, _, took time.Duration, _ error) {
			if name == "cleanup.batch" {
				mu.Lock()
				defer mu.Unlock()
				longest, batches = max(longest, took), append(batches, took)
			}
		}
		var heap uint64
		var removed int64
		beside := reads(b, store, n/30, func() {
			var replicas sync.WaitGroup
			for range 2 {
				c, err := cleanup.New(sqldb.New(pool, sqldb.Options{Observe: observe}), cleanup.Options{Progress: func(cleanup.Report) {
					var m runtime.MemStats
					if len(batches)%200 == 0 {
						runtime.ReadMemStats(&m)
						heap = max(heap, m.HeapInuse)
					}
				}})
				if err != nil {
					b.Error(err)
					return
				}
				replicas.Go(func() {
					r, _ := c.Pass(b.Context(), false)
					mu.Lock()
					defer mu.Unlock()
					removed += r.Total()
				})
			}
			replicas.Wait()
		})
		left(b, pool, n/3)
		slices.Sort(batches)
		b.ReportMetric(float64(removed), "rows")
		b.ReportMetric(ms(batches[len(batches)/2]), "batch-p50-ms")
		b.ReportMetric(ms(longest), "batch-max-ms")
		b.ReportMetric(ms(p(alone, 50)), "read-p50-alone-ms")
		b.ReportMetric(ms(p(beside, 50)), "read-p50-beside-ms")
		b.ReportMetric(ms(p(alone, 99)), "read-p99-alone-ms")
		b.ReportMetric(ms(p(beside, 99)), "read-p99-beside-ms")
		b.ReportMetric(float64(heap)/(1<<20), "heap-MB")
	}
}

func p(sorted []time.Duration, percent int) time.Duration { return sorted[len(sorted)*percent/100] }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// reads measures one user's reads, 200 a second, for as long as work takes.
func reads(b *testing.B, store *settings.Store, users int, work func()) []time.Duration {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var took []time.Duration
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-tick.C
			began := time.Now()
			s, err := store.Get(b.Context(), fmt.Sprintf("out-%d", 1+i%users))
			if err != nil || s.IsEnabled || s.Version == 0 {
				b.Errorf("an opt-out was lost: %+v, %v", s, err)
				return
			}
			took = append(took, time.Since(began))
		}
	})
	work()
	cancel()
	wait.Wait()
	slices.Sort(took)
	return took
}
