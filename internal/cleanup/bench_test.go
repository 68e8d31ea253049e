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

// BenchmarkCleanup removes CLEANUP_BENCH_ROWS rows, 30,000 unless set, while
// users read their settings. Two replicas want to clean up; every five seconds
// they are stopped for as long, so that reads with and without them meet the
// same noise.
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
		left(b, pool, n/3)
		m.report()
	}
}

// measure is what a run of the benchmark finds.
type measure struct {
	b     *testing.B
	pool  *sqlx.DB
	store *settings.Store
	pause time.Duration
	users int

	mu       sync.Mutex
	cleaning bool
	alone    []time.Duration // reads while nobody cleans up
	during   []time.Duration // and while somebody does
	batches  []time.Duration
	rows     int64
	heap     uint64
}

// clean lets two replicas clean up for a while; done reports that all is gone.
func (m *measure) clean(d time.Duration) (done bool) {
	ctx, cancel := context.WithTimeout(m.b.Context(), d)
	defer cancel()
	m.set(func() { m.cleaning = true })
	defer m.set(func() { m.cleaning = false })
	var replicas sync.WaitGroup
	for range 2 {
		c, err := cleanup.New(sqldb.New(m.pool, sqldb.Options{Observe: m.observe}), cleanup.Options{Pause: m.pause})
		if err != nil {
			m.b.Error(err)
			return true
		}
		replicas.Go(func() {
			r, err := c.Pass(ctx, false)
			m.set(func() { m.rows += r.Total(); done = done || err == nil })
		})
	}
	replicas.Wait()
	return done
}

func (m *measure) set(fn func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fn()
}

func (m *measure) observe(name string, _, took time.Duration, _ error) {
	if name != "cleanup.batch" {
		return
	}
	m.set(func() {
		m.batches = append(m.batches, took)
		if len(m.batches)%100 == 0 {
			var s runtime.MemStats
			runtime.ReadMemStats(&s)
			m.heap = max(m.heap, s.HeapInuse)
		}
	})
}

// read reads one user's settings after the other, 200 a second.
func (m *measure) read(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ctx.Err() == nil; i++ {
		<-tick.C
		began := time.Now()
		s, err := m.store.Get(m.b.Context(), fmt.Sprintf("out-%d", 1+i%m.users))
		if err != nil || s.IsEnabled || s.Version == 0 {
			m.b.Errorf("an opt-out was lost: %+v, %v", s, err)
			return
		}
		took := time.Since(began)
		m.set(func() {
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
