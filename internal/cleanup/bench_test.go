package cleanup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// BenchmarkCleanup removes CLEANUP_BENCH_ROWS rows (default 30,000) while users read
// their settings. Two replicas clean up for five seconds and pause for five seconds in
// turn, so that reads with and without them see the same noise.
//
//	CLEANUP_BENCH_ROWS=1000000 CLEANUP_BENCH_PAUSE=20ms go test -run '^$' -bench Cleanup -benchtime 1x -timeout 60m ./internal/cleanup
func BenchmarkCleanup(b *testing.B) {
	n, pause := 30_000, time.Duration(0)
	var errs [2]error
	if s := os.Getenv("CLEANUP_BENCH_ROWS"); s != "" {
		n, errs[0] = strconv.Atoi(s)
	}
	if s := os.Getenv("CLEANUP_BENCH_PAUSE"); s != "" {
		pause, errs[1] = time.ParseDuration(s)
	}
	if err := errors.Join(errs[:]...); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		cluster := pgtest.Start(b, pgtest.Options{Durable: true, Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "1GB"}})
		pool := migrated(b, pgtest.Open(b, cluster.Database(b)))
		fill(b, pool, n/3)
		if _, err := pool.ExecContext(b.Context(), `VACUUM ANALYZE`); err != nil {
			b.Fatal(err)
		}
		m := &measure{b: b, pool: pool, pause: pause, users: n / 30}
		m.store, errs[0] = settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
		if errs[0] != nil {
			b.Fatal(errs[0])
		}
		reader, stop := context.WithCancel(b.Context())
		var wait sync.WaitGroup
		wait.Go(func() { m.read(reader) })
		for done := false; !done && !b.Failed(); {
			<-time.After(5 * time.Second)
			done = m.clean(5 * time.Second)
		}
		stop()
		wait.Wait()
		checkRemaining(b, pool, n/3)
		m.report()
	}
}

// measure runs the benchmark and collects its results.
type measure struct {
	b     *testing.B
	pool  *sqlx.DB
	store *settings.Store
	pause time.Duration
	users int

	mu       sync.Mutex
	cleaning bool
	alone    []time.Duration // reads without a clean-up
	during   []time.Duration // reads during a clean-up
	batches  []time.Duration
	rows     int64
	heap     uint64
}

// clean lets two replicas clean up for d and reports whether nothing is left to delete.
func (m *measure) clean(d time.Duration) (done bool) {
	ctx, cancel := context.WithTimeout(m.b.Context(), d)
	defer cancel()
	m.update(func() { m.cleaning = true })
	defer m.update(func() { m.cleaning = false })
	var replicas sync.WaitGroup
	for range 2 {
		c, err := cleanup.New(sqldb.New(m.pool, sqldb.Options{Observe: m.observe}), cleanup.Options{Pause: m.pause})
		if err != nil {
			m.b.Error(err)
			return true
		}
		replicas.Go(func() {
			r, err := c.Pass(ctx, false)
			m.update(func() { m.rows += r.Total(); done = done || err == nil })
		})
	}
	replicas.Wait()
	return done
}

// update runs fn under the lock.
func (m *measure) update(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

func (m *measure) observe(name string, _, took time.Duration, _ error) {
	if name != "cleanup.batch" {
		return
	}
	m.update(func() {
		m.batches = append(m.batches, took)
		if len(m.batches)%100 == 0 {
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			m.heap = max(m.heap, s.HeapInuse)
		}
	})
}

// read reads the settings of one user after the other, 200 per second.
func (m *measure) read(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-tick.C
		started := time.Now()
		s, err := m.store.Get(m.b.Context(), fmt.Sprintf("out-%d", 1+i%m.users))
		if err != nil || s.IsEnabled || s.Version == 0 {
			m.b.Errorf("settings %+v, error %v; want the stored opt-out", s, err)
			return
		}
		took := time.Since(started)
		m.update(func() {
			if m.cleaning {
				m.during = append(m.during, took)
			} else {
				m.alone = append(m.alone, took)
			}
		})
	}
}

func (m *measure) report() {
	for name, list := range map[string][]time.Duration{"read-alone": m.alone, "read-during": m.during, "batch": m.batches} {
		slices.Sort(list)
		ms := func(i int) float64 { return float64(list[i].Microseconds()) / 1000 }
		m.b.ReportMetric(ms(len(list)/2), name+"-p50-ms")
		m.b.ReportMetric(ms(len(list)*99/100), name+"-p99-ms")
		if name == "batch" {
			m.b.ReportMetric(ms(len(list)-1), name+"-max-ms")
		}
	}
	m.b.ReportMetric(float64(m.rows), "rows")
	m.b.ReportMetric(float64(m.heap)/(1<<20), "heap-MB")
}
