package listen_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/listen"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

// BenchmarkKillSwitch measures the time from an UPDATE in SQL until the last of
// five replicas decides by it. Each replica has its own pool, and a watcher that
// polls every second. Run it with -benchtime 200x for useful percentiles.
func BenchmarkKillSwitch(b *testing.B) {
	b.Run("listening", func(b *testing.B) { killSwitch(b, true) })
	b.Run("polling", func(b *testing.B) { killSwitch(b, false) })
}

func killSwitch(b *testing.B, listening bool) {
	dsn := pgtest.Database(b)
	db := migrated(b, dsn)
	ctx, cancel := context.WithCancel(context.Background())
	var replicas sync.WaitGroup
	defer replicas.Wait()
	defer cancel()
	var watchers []*flags.Watcher
	var ready atomic.Int64
	for range 5 {
		w := flags.NewWatcher(flags.NewStore(pgtest.Open(b, dsn), flags.StoreOptions{}), flags.Options{})
		watchers = append(watchers, w)
		replicas.Go(func() { w.Run(ctx) })
		if listening {
			replicas.Go(func() { _ = listen.Run(ctx, dsn, func() { ready.Add(1); w.Trigger() }, listen.Options{}) })
		} else {
			ready.Add(1)
		}
	}
	for ready.Load() < 5 {
		time.Sleep(time.Millisecond)
	}
	var took []time.Duration
	on := false
	for b.Loop() {
		time.Sleep(rand.N(time.Second / 10)) // so that the changes are not in step with the polls
		start := time.Now()
		if _, err := db.ExecContext(ctx, `UPDATE feature_flags SET enabled_user_ids = CASE WHEN $1 THEN '["u"]' ELSE '[]' END::jsonb WHERE feature_name = 'automation'`, !on); err != nil {
			b.Fatal(err)
		}
		on = !on
		for _, w := range watchers {
			for w.Decide("automation", "u").On != on {
				time.Sleep(100 * time.Microsecond)
			}
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	quantile := func(q float64) (ms float64) {
		return float64(took[int(q*float64(len(took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(quantile(0.5), "p50-ms")
	b.ReportMetric(quantile(0.99), "p99-ms")
	b.ReportMetric(quantile(1), "worst-ms")
	b.ReportMetric(0, "ns/op") // hides the default metric, which includes the pauses
}
