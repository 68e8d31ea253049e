package settings_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// warm is a cache that holds n users, on a clock that is read but stands still,
// so that the entries stay fresh however long the benchmark runs.
func warm(b *testing.B, n int) (*settings.Cache, []string) {
	b.Helper()
	now := time.Now()
	clock := func() time.Time { _ = time.Now(); return now }
	cache := settings.NewCache(newStore(b, migrated(b, sqlite(b))), settings.CacheOptions{Now: clock})
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d", i)
		if _, err := cache.Get(b.Context(), users[i]); err != nil {
			b.Fatal(err)
		}
	}
	return cache, users
}

func BenchmarkCacheHit(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("users=%d", n), func(b *testing.B) {
			cache, users := warm(b, n)
			ctx := b.Context()
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := cache.Get(ctx, users[i]); err != nil {
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
	cache, users := warm(b, 1000)
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := cache.Get(ctx, users[i%len(users)]); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkPoll is a look that finds nothing, with a full cache.
func BenchmarkPoll(b *testing.B) {
	cache, _ := warm(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := cache.Poll(b.Context()); err != nil {
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
