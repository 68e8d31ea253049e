package settings_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// write is any of the writes that return settings.
type write func(ctx context.Context, s *settings.Store, user string, c settings.Condition) (settings.Settings, error)

func put(ctx context.Context, s *settings.Store, user string, c settings.Condition) (settings.Settings, error) {
	return s.Put(ctx, user, on(2*time.Hour), c)
}

func patch(ctx context.Context, s *settings.Store, user string, c settings.Condition) (settings.Settings, error) {
	return s.Patch(ctx, user, settings.Change{SessionDuration: new(2 * time.Hour)}, c)
}

func patchNothing(ctx context.Context, s *settings.Store, user string, c settings.Condition) (settings.Settings, error) {
	return s.Patch(ctx, user, settings.Change{}, c)
}

func remove(ctx context.Context, s *settings.Store, user string, c settings.Condition) (settings.Settings, error) {
	return s.Delete(ctx, user, c)
}

func TestCondition_DecidesWhetherAWriteHappens(t *testing.T) {
	t.Parallel()
	const (
		nothing = "nothing stored"
		stored  = "version 1 stored"
		deleted = "version 1 stored and deleted"
	)
	tests := []struct {
		name     string
		write    write
		before   string
		c        settings.Condition
		conflict bool
		version  int64 // afterwards
	}{
		{"put always", put, nothing, settings.Always, false, 1},
		{"put always", put, deleted, settings.Always, false, 3},
		{"put always", put, stored, settings.Always, false, 2},
		{"put if nothing is stored", put, nothing, settings.IfVersion(0), false, 1},
		{"put if nothing is stored", put, deleted, settings.IfVersion(0), false, 3},
		{"put if nothing is stored", put, stored, settings.IfVersion(0), true, 1},
		{"put on version 1", put, nothing, settings.IfVersion(1), true, 0},
		{"put on version 1", put, stored, settings.IfVersion(1), false, 2},
		{"put on version 2", put, deleted, settings.IfVersion(2), true, 0},
		{"put on version 2", put, stored, settings.IfVersion(2), true, 1},
		{"put on version -1", put, stored, settings.IfVersion(-1), true, 1},
		{"put on version -1", put, nothing, settings.IfVersion(-1), true, 0},
		{"put on the greatest version", put, nothing, settings.IfVersion(math.MaxInt64), true, 0},
		{"patch if nothing is stored", patch, nothing, settings.IfVersion(0), false, 1},
		{"patch if nothing is stored", patch, stored, settings.IfVersion(0), true, 1},
		{"patch on version 1", patch, nothing, settings.IfVersion(1), true, 0},
		{"patch on version 1", patch, stored, settings.IfVersion(1), false, 2},
		{"patch nothing on version 0", patchNothing, nothing, settings.IfVersion(0), false, 0},
		{"patch nothing on version 1", patchNothing, stored, settings.IfVersion(1), false, 1},
		{"patch nothing on version 2", patchNothing, stored, settings.IfVersion(2), true, 1},
		{"delete on version 1", remove, stored, settings.IfVersion(1), false, 0},
		{"delete on version 2", remove, stored, settings.IfVersion(2), true, 1},
		{"delete on version -1", remove, stored, settings.IfVersion(-1), true, 1},
		{"delete if nothing is stored", remove, stored, settings.IfVersion(0), true, 1},
		{"delete on version 1", remove, deleted, settings.IfVersion(1), false, 0},
		{"delete on version 1", remove, nothing, settings.IfVersion(1), false, 0},
	}
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ok := newStore(t, pool), must[settings.Settings](t)
		for i, test := range tests {
			t.Run(test.name+" with "+test.before, func(t *testing.T) {
				ctx, user := t.Context(), fmt.Sprint("user ", i)
				if test.before != nothing {
					ok(store.Put(ctx, user, on(time.Hour), settings.Always))
				}
				if test.before == deleted {
					ok(store.Delete(ctx, user, settings.Always))
				}
				before := ok(store.Get(ctx, user))
				_, err := test.write(ctx, store, user, test.c)
				if errors.Is(err, settings.ErrConflict) != test.conflict || err != nil && !test.conflict {
					t.Errorf("error %v; want ErrConflict: %t", err, test.conflict)
				}
				got := ok(store.Get(ctx, user))
				if got.Version != test.version {
					t.Errorf("version %d afterwards, want %d", got.Version, test.version)
				}
				if test.conflict && got != before {
					t.Errorf("a conflict changed something (-before +after):\n%s", cmp.Diff(before, got))
				}
			})
		}
	})
}

func TestStore_ConcurrentWritesHaveDifferentVersions(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		const writers = 64
		var all sync.WaitGroup
		versions := make([]int64, writers)
		for i := range writers {
			all.Go(func() {
				// The values differ, so each write increases the version.
				got, err := store.Put(ctx, "u", on(time.Hour+time.Duration(i)*time.Second), settings.Always)
				if err != nil {
					t.Errorf("Put: %v", err)
				}
				versions[i] = got.Version
			})
		}
		all.Wait()
		slices.Sort(versions)
		for i, v := range versions {
			if v != int64(i+1) {
				t.Fatalf("the versions of %d writes are %v, want 1 to %d", writers, versions, writers)
			}
		}
		if got := ok(store.Get(ctx, "u")); got.Version != writers {
			t.Errorf("version %d after %d writes, want %d", got.Version, writers, writers)
		}
	})
}

func TestStore_ConcurrentPatchesOfDifferentFieldsAreBothApplied(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		for round := range 20 {
			user := fmt.Sprint("user ", round)
			var both sync.WaitGroup
			for _, ch := range []settings.Change{{IsEnabled: new(true)}, {SessionDuration: new(2 * time.Hour)}} {
				both.Go(func() {
					if _, err := store.Patch(ctx, user, ch, settings.Always); err != nil {
						t.Errorf("Patch: %v", err)
					}
				})
			}
			both.Wait()
			want(t, ok(store.Get(ctx, user)), settings.Settings{UserID: user, IsEnabled: true, SessionDuration: 2 * time.Hour, Version: 2})
		}
	})
}

func TestStore_OneConditionalWriteOnAVersionSucceeds(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx := newStore(t, pool), t.Context()
		for version := range int64(4) { // the first creates
			var all sync.WaitGroup
			var succeeded atomic.Int64
			for i := range 16 {
				all.Go(func() {
					d := time.Duration(version)*time.Hour + time.Hour + time.Duration(i)*time.Second
					got, err := store.Put(ctx, "u", on(d), settings.IfVersion(version))
					switch {
					case err == nil && got.Version == version+1:
						succeeded.Add(1)
					case !errors.Is(err, settings.ErrConflict):
						t.Errorf("Put on version %d returned version %d, error %v; want version %d or ErrConflict", version, got.Version, err, version+1)
					}
				})
			}
			all.Wait()
			if n := succeeded.Load(); n != 1 {
				t.Fatalf("%d writes on version %d succeeded, want 1", n, version)
			}
		}
	})
}
