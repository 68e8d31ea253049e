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

func TestCache_OwnWritesAreVisibleAtOnce(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		ctx, ok := t.Context(), must[settings.Settings](t)
		ours := newStore(t, pool)
		wantCached := func(written settings.Settings) {
			t.Helper()
			for range 2 {
				if diff := cmp.Diff(written, ok(ours.GetCached(ctx, "u"))); diff != "" {
					t.Errorf("GetCached (-written +read):\n%s", diff)
				}
			}
		}
		defaults := ok(ours.GetCached(ctx, "u"))
		wantCached(defaults)
		wantCached(ok(ours.Put(ctx, "u", on(time.Hour), settings.Always)))
		wantCached(ok(ours.Patch(ctx, "u", settings.Change{IsEnabled: new(false)}, settings.IfVersion(1))))
		wantCached(ok(ours.Delete(ctx, "u", settings.Always)))
		wantCached(ok(ours.Put(ctx, "u", on(2*time.Hour), settings.IfVersion(0))))
		if err := ours.EraseUser(ctx, "u"); err != nil {
			t.Fatal(err)
		}
		wantCached(defaults)
	})
}

func TestCache_WritesOfAnotherReplicaAreVisibleAfterTheNextPoll(t *testing.T) {
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
			func() (settings.Settings, error) { // a new row, at a version that the old one has had
				if err := theirs.EraseUser(ctx, "u"); err != nil {
					return settings.Settings{}, err
				}
				return theirs.Put(ctx, "u", off(2*time.Hour), settings.Always)
			},
		} {
			before := ok(ours.GetCached(ctx, "u"))
			written := ok(write())
			if got := ok(ours.GetCached(ctx, "u")); got != before {
				t.Errorf("write %d is visible before the poll: the entry was not cached, so the test does not cover the poll", i)
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

func TestCache_RunMakesWritesOfOtherReplicasVisibleWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool := migrated(t, sqlite(t))
		ctx, ok := t.Context(), must[settings.Settings](t)
		ours, theirs := newStore(t, pool), newStore(t, pool)
		runCtx, stop := context.WithCancel(ctx)
		var run sync.WaitGroup
		run.Go(func() { ours.Run(runCtx) })
		for i := range 20 {
			before := ok(ours.GetCached(ctx, "u"))
			// After 3 s, only polls can keep the entry fresh. The rest makes each
			// write come at another moment between two polls.
			time.Sleep(3*time.Second + time.Duration(i)*97*time.Millisecond)
			written := ok(theirs.Put(ctx, "u", on(time.Hour+time.Duration(i)*time.Second), settings.Always))
			if got := ok(ours.GetCached(ctx, "u")); got != before {
				t.Error("the entry was not used any more, so the test does not cover polls")
			}
			time.Sleep(2 * time.Second)
			if got := ok(ours.GetCached(ctx, "u")); got != written {
				t.Errorf("GetCached two seconds after a write (-written +read):\n%s", cmp.Diff(written, got))
			}
		}
		stop()
		run.Wait()
	})
}

func TestCache_PollFindsALateCommit(t *testing.T) {
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
		// As after a statement that took 5 s.
		fiveSecondsAgo := `statement_timestamp() - interval '5 seconds'`
		if pool.DriverName() == "sqlite" {
			fiveSecondsAgo = `strftime('%Y-%m-%d %H:%M:%f', 'now', '-5 seconds')`
		}
		exec(ctx, t, pool, `UPDATE user_automation_settings SET is_enabled = false, version = 2, updated_at = `+fiveSecondsAgo)
		if err := ours.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		if got := ok(ours.GetCached(ctx, "u")); got.Version != 2 || got.IsEnabled {
			t.Errorf("after the poll GetCached returns %+v, want version 2, not enabled", got)
		}
	})
}

func TestCache_IsBoundedByItsSize(t *testing.T) {
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
	cached := 0
	for i := range 100 {
		if _, err := ours.GetCached(ctx, fmt.Sprint(i)); err == nil {
			cached++
		} else if !errors.Is(err, settings.ErrUnavailable) {
			t.Errorf("GetCached on a closed pool returned %v, want ErrUnavailable", err)
		}
	}
	if cached != 10 {
		t.Errorf("%d of 100 users are cached, want 10", cached)
	}
}

func TestCache_ReturnsTheStoresErrors(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	ours := newStore(t, migrated(t, sqlite(t)))
	if _, err := ours.GetCached(ctx, ""); !isInvalid(err) {
		t.Errorf("GetCached of an empty id returned %v, want an InvalidError", err)
	}
	if _, err := ours.Put(ctx, "u", on(time.Second), settings.Always); !isInvalid(err) {
		t.Errorf("Put of one second returned %v, want an InvalidError", err)
	}
	if _, err := ours.Put(ctx, "u", on(time.Hour), settings.IfVersion(3)); !errors.Is(err, settings.ErrConflict) {
		t.Errorf("Put on a version that is not stored returned %v, want ErrConflict", err)
	}
}
