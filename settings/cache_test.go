package settings_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

func TestCache_OwnWritesShowAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		ctx, ok := t.Context(), must[settings.Settings](t)
		ours := newStore(t, pool)
		same := func(written settings.Settings) {
			t.Helper()
			for range 2 {
				if diff := cmp.Diff(written, ok(ours.GetCached(ctx, "u"))); diff != "" {
					t.Errorf("-written +read:\n%s", diff)
				}
			}
		}
		nothing := ok(ours.GetCached(ctx, "u"))
		same(nothing)
		same(ok(ours.Put(ctx, "u", on(time.Hour), settings.Always)))
		same(ok(ours.Patch(ctx, "u", settings.Change{IsEnabled: new(false)}, settings.IfVersion(1))))
		same(ok(ours.Delete(ctx, "u", settings.Always)))
		same(ok(ours.Put(ctx, "u", on(2*time.Hour), settings.IfVersion(0))))
		if err := ours.EraseUser(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		same(nothing)
	})
}

func TestCache_WritesOfAnotherReplicaShowAfterTheNextPoll(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		ctx, ok := t.Context(), must[settings.Settings](t)
		ours, theirs := newStore(t, pool), newStore(t, pool)
		for i, write := range []func() (settings.Settings, error){
			func() (settings.Settings, error) { return theirs.Put(ctx, "u", on(time.Hour), settings.Always) },
			func() (settings.Settings, error) { return theirs.Put(ctx, "u", off(time.Hour), settings.Always) },
			func() (settings.Settings, error) {
				return theirs.Patch(ctx, "u", settings.Change{IsEnabled: new(true)}, settings.Always)
			},
			func() (settings.Settings, error) { return theirs.Delete(ctx, "u", settings.Always) },
			func() (settings.Settings, error) { return theirs.Put(ctx, "u", on(time.Hour), settings.Always) },
			func() (settings.Settings, error) { // the same version as at first, of another row
				if err := theirs.EraseUser(ctx, "u"); err != nil {
					return settings.Settings{}, err
				}
				return theirs.Put(ctx, "u", off(2*time.Hour), settings.Always)
			},
		} {
			before := ok(ours.GetCached(ctx, "u"))
			written := ok(write())
			if got := ok(ours.GetCached(ctx, "u")); got != before {
				t.Errorf("write %d: the cache was asked twice and read twice, so this test shows nothing", i)
			}
			if err := ours.Poll(ctx); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(written, ok(ours.GetCached(ctx, "u"))); diff != "" {
				t.Errorf("write %d (-written +read):\n%s", i, diff)
			}
		}
	})
}

func TestCache_RunShowsOtherReplicasWritesWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := migrated(t, sqlite(t))
		ctx, ok := t.Context(), must[settings.Settings](t)
		ours, theirs := newStore(t, pool), newStore(t, pool)
		running, stop := context.WithCancel(ctx)
		var run sync.WaitGroup
		run.Go(func() { ours.Run(running) })
		for i := range 20 {
			before := ok(ours.GetCached(ctx, "u"))
			// Of the bubble: so long that only polls can confirm the entry, and
			// then to anywhere between two of them.
			time.Sleep(3*time.Second + time.Duration(i)*97*time.Millisecond)
			written := ok(theirs.Put(ctx, "u", on(time.Hour+time.Duration(i)*time.Second), settings.Always))
			if got := ok(ours.GetCached(ctx, "u")); got != before {
				t.Error("the cache was not used, so this test shows nothing")
			}
			time.Sleep(2 * time.Second)
			if got := ok(ours.GetCached(ctx, "u")); got != written {
				t.Errorf("after two seconds (-written +read):\n%s", cmp.Diff(written, got))
			}
		}
		stop()
		run.Wait()
	})
}

func TestCache_PollFindsWhatWasCommittedLate(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		ctx, ok := t.Context(), must[settings.Settings](t)
		theirs := newStore(t, pool)
		ok(theirs.Put(ctx, "u", on(time.Hour), settings.Always))
		ours := newStore(t, pool)
		if err := ours.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		ok(ours.GetCached(ctx, "u"))
		// As it looks when a statement took 5 s.
		ago := `statement_timestamp() - interval '5 seconds'`
		if pool.DriverName() == "sqlite" {
			ago = `strftime('%Y-%m-%d %H:%M:%f', 'now', '-5 seconds')`
		}
		exec(ctx, t, pool, `UPDATE user_automation_settings SET is_enabled = false, version = 2, updated_at = `+ago)
		if err := ours.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if got := ok(ours.GetCached(ctx, "u")); got.Version != 2 || got.IsEnabled {
			t.Errorf("the change was missed: %+v", got)
		}
	})
}

func TestCache_HoldsNoMoreThanItsSize(t *testing.T) {
	t.Parallel()
	pool := migrated(t, sqlite(t))
	ctx, ok := t.Context(), must[settings.Settings](t)
	ours := newStoreWith(t, pool, settings.StoreOptions{CacheSize: 10})
	for i := range 100 {
		ok(ours.GetCached(ctx, fmt.Sprint(i)))
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	held := 0
	for i := range 100 {
		if _, err := ours.GetCached(ctx, fmt.Sprint(i)); err == nil {
			held++
		} else if !errors.Is(err, settings.ErrUnavailable) {
			t.Error(err)
		}
	}
	if held != 10 {
		t.Errorf("%d of 100 users are held, want 10", held)
	}
}

func TestCache_ReturnsWhatTheStoreRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ours := newStore(t, migrated(t, sqlite(t)))
	if _, err := ours.GetCached(ctx, ""); !isInvalid(err) {
		t.Errorf("get: %v", err)
	}
	if _, err := ours.Put(ctx, "u", on(time.Second), settings.Always); !isInvalid(err) {
		t.Errorf("put: %v", err)
	}
	if _, err := ours.Put(ctx, "u", on(time.Hour), settings.IfVersion(3)); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("put: %v", err)
	}
}
