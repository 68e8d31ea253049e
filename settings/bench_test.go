package settings_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// newWarmStore returns a store whose cache holds n users, and the users. Its clock
// costs as much as a real one but never advances, so that the entries stay fresh
// during the benchmark.
func newWarmStore(b *testing.B, n int) (*settings.Store, []string) {
	b.Helper()
	now := time.Now()
	clock := func() time.Time { _ = time.Now(); return now }
	store := newStoreWith(b, migrated(b, sqlite(b)), settings.StoreOptions{Now: clock})
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d", i)
		if _, err := store.GetCached(b.Context(), users[i]); err != nil {
			b.Fatal(err)
		}
	}
	return store, users
}

func BenchmarkCacheHit(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("users=%d", n), func(b *testing.B) {
			store, users := newWarmStore(b, n)
			ctx := b.Context()
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := store.GetCached(ctx, users[i]); err != nil {
					b.Fatal(err)
				}
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

func BenchmarkCacheHitParallel(b *testing.B) {
	store, users := newWarmStore(b, 1000)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := store.GetCached(ctx, users[i%len(users)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkPoll is a poll that finds no changes, with 10,000 users in the cache.
func BenchmarkPoll(b *testing.B) {
	store, _ := newWarmStore(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := store.Poll(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStorePostgres(b *testing.B) {
	store := newStore(b, migrated(b, postgres(b)))
	b.Run("put", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := store.Put(b.Context(), "u", on(time.Hour+time.Duration(i%2)*time.Second), settings.Always); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.Get(b.Context(), "u"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCacheMemory reports how much memory a user's cached settings need.
func BenchmarkCacheMemory(b *testing.B) {
	const users = 1_000_000
	now := time.Now()
	heapBytes := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heapBytes()
		cache := settings.NewFilledCache(users, now)
		b.ReportMetric(float64(heapBytes()-before)/users, "B/user")
		runtime.KeepAlive(cache)
	}
}

// BenchmarkPollOfAMillionUsers is the poll that each replica makes every second,
// while 1,000 of a million users change their settings every second.
func BenchmarkPollOfAMillionUsers(b *testing.B) {
	pool := migrated(b, postgres(b))
	for _, s := range []string{
		`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at)
		SELECT 'user-' || i, true, 3600, now() - interval '1 year', now() - make_interval(secs => i * 0.001) FROM generate_series(1, 1000000) AS i`,
		`VACUUM ANALYZE user_automation_settings`,
	} {
		if _, err := pool.ExecContext(b.Context(), s); err != nil {
			b.Fatal(err)
		}
	}
	store := newStore(b, pool)
	if err := store.Poll(b.Context()); err != nil {
		b.Fatal(err)
	}
	change := `UPDATE user_automation_settings SET version = version + 1, updated_at = clock_timestamp()
		WHERE user_id IN (SELECT 'user-' || (random() * 1000000)::int FROM generate_series(1, 1000))`
	for b.Loop() {
		b.StopTimer()
		if _, err := pool.ExecContext(b.Context(), change); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := store.Poll(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
