package settings_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// want compares all fields but the times. These must be set if and only if
// something is stored.
func want(t *testing.T, got, want settings.Settings) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(settings.Settings{}, "CreatedAt", "UpdatedAt")); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if isStored := got.Version != 0; got.CreatedAt.IsZero() == isStored || got.UpdatedAt.IsZero() == isStored {
		t.Errorf("version %d was created at %v and updated at %v; want both times: %t", got.Version, got.CreatedAt, got.UpdatedAt, isStored)
	}
}

func countRows(t *testing.T, pool *sqlx.DB) (n int) {
	t.Helper()
	if err := pool.GetContext(t.Context(), &n, `SELECT count(*) FROM user_automation_settings`); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStore_UserWithNothingStoredHasTheDefaults(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, err := settings.NewStore(pool, settings.Defaults{IsEnabled: true, SessionDuration: 20 * time.Minute}, settings.StoreOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := must[settings.Settings](t)(store.Get(t.Context(), "u"))
		want(t, got, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: 20 * time.Minute})
		got = must[settings.Settings](t)(store.Patch(t.Context(), "u", settings.Change{}, settings.Always))
		want(t, got, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: 20 * time.Minute})
		if n := countRows(t, pool); n != 0 {
			t.Errorf("reading stored %d rows, want 0", n)
		}
	})
}

func TestStore_PutPatchDeleteErase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)

		first := ok(store.Put(ctx, "u", on(time.Hour), settings.Always))
		want(t, first, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: time.Hour, Version: 1})
		if age := time.Since(first.CreatedAt); age.Abs() > 20*time.Minute || first.CreatedAt.Location() != time.UTC {
			t.Errorf("created at %v, which is %v ago; want now, in UTC", first.CreatedAt, age)
		}

		if again := ok(store.Put(ctx, "u", on(time.Hour), settings.Always)); again != first {
			t.Errorf("a Put of the same values changed something (-first +again):\n%s", cmp.Diff(first, again))
		}
		if again := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(true)}, settings.IfVersion(1))); again != first {
			t.Errorf("a Patch to the stored value changed something (-first +again):\n%s", cmp.Diff(first, again))
		}

		waitForTick(t, pool)
		second := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(false)}, settings.Always))
		want(t, second, settings.Settings{UserID: "u", SessionDuration: time.Hour, Version: 2})
		if !second.CreatedAt.Equal(first.CreatedAt) || !second.UpdatedAt.After(first.UpdatedAt) {
			t.Errorf("after an update: %+v; before: %+v; want the same CreatedAt and a later UpdatedAt", second, first)
		}
		third := ok(store.Patch(ctx, "u", settings.Change{SessionDuration: new(10 * time.Minute)}, settings.Always))
		want(t, third, settings.Settings{UserID: "u", SessionDuration: 10 * time.Minute, Version: 3})
		if got := ok(store.Get(ctx, "u")); got != third {
			t.Errorf("Get (-written +read):\n%s", cmp.Diff(third, got))
		}

		for range 2 {
			want(t, ok(store.Delete(ctx, "u", settings.Always)), settings.Settings{UserID: "u", SessionDuration: time.Hour})
			want(t, ok(store.Get(ctx, "u")), settings.Settings{UserID: "u", SessionDuration: time.Hour})
		}

		waitForTick(t, pool)
		fifth := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(true)}, settings.Always))
		want(t, fifth, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: time.Hour, Version: 5})
		if !fifth.CreatedAt.After(first.CreatedAt) || !fifth.CreatedAt.Equal(fifth.UpdatedAt) {
			t.Errorf("stored after Delete: %+v; at first: %+v; want a later CreatedAt, equal to UpdatedAt", fifth, first)
		}

		for range 2 {
			if err := store.EraseUser(ctx, "u"); err != nil {
				t.Fatal(err)
			}
		}
		if n := countRows(t, pool); n != 0 {
			t.Errorf("EraseUser left %d rows, want 0", n)
		}
	})
}

// waitForTick waits until the database's clock shows another millisecond.
func waitForTick(t *testing.T, pool *sqlx.DB) {
	t.Helper()
	query := `SELECT CAST(date_trunc('milliseconds', clock_timestamp()) AS text)`
	if pool.DriverName() == "sqlite" {
		query = `SELECT strftime('%f', 'now')`
	}
	var first, now string
	for now == first {
		if err := pool.GetContext(t.Context(), &now, query); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = now
		}
	}
}

func TestStore_AcceptsAnyReadableID(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		ids := []string{"7", "07", "a@b.example", "Ä", "A\u0308", "'; DROP TABLE user_automation_settings; --", "$1", "{now}", " ", strings.Repeat("ü", 128)}
		for i, id := range ids {
			ok(store.Put(ctx, id, on(time.Hour+time.Duration(i)*time.Second), settings.IfVersion(0)))
		}
		for i, id := range ids {
			want(t, ok(store.Get(ctx, id)), settings.Settings{UserID: id, IsEnabled: true, SessionDuration: time.Hour + time.Duration(i)*time.Second, Version: 1})
		}
	})
}

func TestStore_ReadsADurationOutsideTheBoundsAsTheNearestBound(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		for user, d := range map[string]int64{"short": 60, "long": math.MaxInt32} {
			if _, err := pool.ExecContext(ctx, `INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at)
				VALUES ($1, false, $2, '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000')`, user, d); err != nil {
				t.Fatal(err)
			}
		}
		want(t, ok(store.Get(ctx, "short")), settings.Settings{UserID: "short", SessionDuration: 300 * time.Second, Version: 1})
		want(t, ok(store.Get(ctx, "long")), settings.Settings{UserID: "long", SessionDuration: 24 * time.Hour, Version: 1})

		want(t, ok(store.Patch(ctx, "short", settings.Change{IsEnabled: new(true)}, settings.IfVersion(1))),
			settings.Settings{UserID: "short", IsEnabled: true, SessionDuration: 300 * time.Second, Version: 2})
		var stored int64
		if err := pool.GetContext(ctx, &stored, `SELECT session_duration FROM user_automation_settings WHERE user_id = 'short'`); err != nil || stored != 60 {
			t.Errorf("the stored session_duration is %d, %v; want 60 still", stored, err)
		}
		want(t, ok(store.Put(ctx, "short", on(300*time.Second), settings.IfVersion(2))),
			settings.Settings{UserID: "short", IsEnabled: true, SessionDuration: 300 * time.Second, Version: 3})
	})
}

func TestStore_OptInCounts(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		for i := range 6 {
			ok(store.Put(ctx, fmt.Sprint(i), settings.Values{IsEnabled: i < 4, SessionDuration: time.Hour}, settings.Always))
		}
		ok(store.Delete(ctx, "0", settings.Always))
		if on, off, err := store.OptInCounts(ctx); on != 3 || off != 2 || err != nil {
			t.Errorf("%d on, %d off, %v; want 3 and 2", on, off, err)
		}
	})
}

func TestStore_CanceledContextAndClosedPoolAreUnavailable(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store := newStore(t, pool)
		calls := map[string]func(context.Context) error{
			"get":    func(ctx context.Context) error { _, err := store.Get(ctx, "u"); return err },
			"put":    func(ctx context.Context) error { _, err := put(ctx, store, "u", settings.Always); return err },
			"patch":  func(ctx context.Context) error { _, err := patchNothing(ctx, store, "u", settings.Always); return err },
			"delete": func(ctx context.Context) error { _, err := store.Delete(ctx, "u", settings.IfVersion(1)); return err },
			"erase":  func(ctx context.Context) error { return store.EraseUser(ctx, "u") },
			"opt-ins": func(ctx context.Context) error {
				_, _, err := store.OptInCounts(ctx)
				return err
			},
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range calls {
			if err := call(cancelled); !errors.Is(err, settings.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("%s with a cancelled context returned %v, want ErrUnavailable and context.Canceled", name, err)
			}
		}
		if n := countRows(t, pool); n != 0 {
			t.Errorf("cancelled calls left %d rows", n)
		}
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
		for name, call := range calls {
			if err := call(t.Context()); !errors.Is(err, settings.ErrUnavailable) {
				t.Errorf("%s on a closed pool returned %v, want ErrUnavailable", name, err)
			}
		}
	})
}
