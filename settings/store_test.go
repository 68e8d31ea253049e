package settings_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

// want compares all but the times, and that there are times where something is
// stored and none where not.
func want(t *testing.T, got, want settings.Settings) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(settings.Settings{}, "CreatedAt", "UpdatedAt")); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	if stored := got.Version != 0; got.CreatedAt.IsZero() == stored || got.UpdatedAt.IsZero() == stored {
		t.Errorf("version %d was created at %v and updated at %v", got.Version, got.CreatedAt, got.UpdatedAt)
	}
}

func rows(t *testing.T, pool *sqlx.DB) (n int) {
	t.Helper()
	if err := pool.GetContext(t.Context(), &n, `SELECT count(*) FROM user_automation_settings`); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAUserWithNothingStoredHasTheDefaultsAndReadingStoresNothing(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, err := settings.NewStore(pool, settings.Defaults{IsEnabled: true, SessionDuration: 20 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		got := must[settings.Settings](t)(store.Get(t.Context(), "u"))
		want(t, got, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: 20 * time.Minute})
		got = must[settings.Settings](t)(store.Patch(t.Context(), "u", settings.Change{}, settings.Always))
		want(t, got, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: 20 * time.Minute})
		if n := rows(t, pool); n != 0 {
			t.Errorf("reading stored %d rows", n)
		}
	})
}

func TestALife(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)

		first := ok(store.Put(ctx, "u", on(time.Hour), settings.Always))
		want(t, first, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: time.Hour, Version: 1})
		if age := time.Since(first.CreatedAt); age < -time.Second || age > time.Minute || first.CreatedAt.Location() != time.UTC {
			t.Errorf("created at %v, which is %v ago", first.CreatedAt, age)
		}

		if again := ok(store.Put(ctx, "u", on(time.Hour), settings.Always)); again != first {
			t.Errorf("the same again changed something (-first +again):\n%s", cmp.Diff(first, again))
		}
		if again := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(true)}, settings.IfVersion(1))); again != first {
			t.Errorf("a patch to what is stored changed something (-first +again):\n%s", cmp.Diff(first, again))
		}

		tick(t, pool)
		second := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(false)}, settings.Always))
		want(t, second, settings.Settings{UserID: "u", SessionDuration: time.Hour, Version: 2})
		if !second.CreatedAt.Equal(first.CreatedAt) || !second.UpdatedAt.After(first.UpdatedAt) {
			t.Errorf("times after an update: %v, before: %v", second, first)
		}
		third := ok(store.Patch(ctx, "u", settings.Change{SessionDuration: new(10 * time.Minute)}, settings.Always))
		want(t, third, settings.Settings{UserID: "u", SessionDuration: 10 * time.Minute, Version: 3})
		if got := ok(store.Get(ctx, "u")); got != third {
			t.Errorf("read something else than was written (-written +read):\n%s", cmp.Diff(third, got))
		}

		for range 2 {
			want(t, ok(store.Delete(ctx, "u", settings.Always)), settings.Settings{UserID: "u", SessionDuration: time.Hour})
			want(t, ok(store.Get(ctx, "u")), settings.Settings{UserID: "u", SessionDuration: time.Hour})
		}

		tick(t, pool)
		fifth := ok(store.Patch(ctx, "u", settings.Change{IsEnabled: new(true)}, settings.Always))
		want(t, fifth, settings.Settings{UserID: "u", IsEnabled: true, SessionDuration: time.Hour, Version: 5})
		if !fifth.CreatedAt.After(first.CreatedAt) || !fifth.CreatedAt.Equal(fifth.UpdatedAt) {
			t.Errorf("times after a new beginning: %v, at first: %v", fifth, first)
		}

		for range 2 {
			if err := store.Forget(ctx, "u"); err != nil {
				t.Fatal(err)
			}
		}
		if n := rows(t, pool); n != 0 {
			t.Errorf("Forget left %d rows", n)
		}
	})
}

// tick waits until the database's clock, in milliseconds at the coarsest, moves.
func tick(t *testing.T, pool *sqlx.DB) {
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

// write is any of the writes that return settings.
type write func(s *settings.Store, ctx context.Context, user string, c settings.Condition) (settings.Settings, error)

func put(s *settings.Store, ctx context.Context, user string, c settings.Condition) (settings.Settings, error) {
	return s.Put(ctx, user, on(2*time.Hour), c)
}

func patch(s *settings.Store, ctx context.Context, user string, c settings.Condition) (settings.Settings, error) {
	return s.Patch(ctx, user, settings.Change{SessionDuration: new(2 * time.Hour)}, c)
}

func patchNothing(s *settings.Store, ctx context.Context, user string, c settings.Condition) (settings.Settings, error) {
	return s.Patch(ctx, user, settings.Change{}, c)
}

func TestAConditionDecidesWhetherAWriteHappens(t *testing.T) {
	t.Parallel()
	const nothing, stored, deleted = "nothing stored", "version 1 stored", "version 1 stored and deleted"
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
		{"delete on version 1", (*settings.Store).Delete, stored, settings.IfVersion(1), false, 0},
		{"delete on version 2", (*settings.Store).Delete, stored, settings.IfVersion(2), true, 1},
		{"delete on version -1", (*settings.Store).Delete, stored, settings.IfVersion(-1), true, 1},
		{"delete if nothing is stored", (*settings.Store).Delete, stored, settings.IfVersion(0), true, 1},
		{"delete on version 1", (*settings.Store).Delete, deleted, settings.IfVersion(1), false, 0},
		{"delete on version 1", (*settings.Store).Delete, nothing, settings.IfVersion(1), false, 0},
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
				_, err := test.write(store, ctx, user, test.c)
				if errors.Is(err, settings.ErrConflict) != test.conflict || err != nil && !test.conflict {
					t.Errorf("error %v, conflict wanted: %t", err, test.conflict)
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

func TestWhatIsInvalidIsNamedAndNeverReachesTheDatabase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx := newStore(t, pool), t.Context()
		if err := pool.Close(); err != nil { // whoever asks it gets another error
			t.Fatal(err)
		}
		for _, user := range []string{"", strings.Repeat("x", 257), "a\xff", "a\x00b", "a\nb", "\u0085"} {
			for name, call := range map[string]func() error{
				"get":    func() error { _, err := store.Get(ctx, user); return err },
				"put":    func() error { _, err := put(store, ctx, user, settings.Always); return err },
				"patch":  func() error { _, err := patchNothing(store, ctx, user, settings.Always); return err },
				"delete": func() error { _, err := store.Delete(ctx, user, settings.Always); return err },
				"forget": func() error { return store.Forget(ctx, user) },
			} {
				err := call()
				if fields := complaints(err); !errors.Is(err, settings.ErrInvalid) || !slices.Equal(fields, []string{"user_id"}) {
					t.Errorf("%s(%q): %v, about %v", name, user, err, fields)
				}
				if len(user) > 1 && strings.Contains(err.Error(), user) {
					t.Errorf("%s(%q): the error names the user: %v", name, user, err)
				}
			}
		}
		for _, d := range []time.Duration{0, -time.Hour, 299 * time.Second, 301*time.Second + 1, 24*time.Hour + time.Second, math.MaxInt64} {
			_, err := store.Put(ctx, "u", on(d), settings.Always)
			if fields := complaints(err); !errors.Is(err, settings.ErrInvalid) || !slices.Equal(fields, []string{"session_duration"}) {
				t.Errorf("%v: %v, about %v", d, err, fields)
			}
		}
		_, err := store.Patch(ctx, "", settings.Change{SessionDuration: new(time.Second)}, settings.Always)
		if fields := complaints(err); !slices.Equal(fields, []string{"user_id", "session_duration"}) {
			t.Errorf("two mistakes at once: %v, about %v", err, fields)
		}
		const text = "settings.patch: user_id: must be 1 to 256 bytes long, not 0\nsession_duration: must be whole seconds from 300 to 86400"
		if err.Error() != text {
			t.Errorf("got  %s\nwant %s", err, text)
		}
	})
}

// complaints are the fields that the InvalidErrors in err name.
func complaints(err error) (fields []string) {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself
	case *settings.InvalidError:
		return []string{e.Field}
	case interface{ Unwrap() error }:
		return complaints(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			fields = append(fields, complaints(e)...)
		}
	}
	return fields
}

func TestAnyReadableIdIsAUser(t *testing.T) {
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

func TestAStoredDurationOutsideTheBoundsIsReadAsTheNearestAndStaysAsItIs(t *testing.T) {
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
			t.Errorf("60 seconds became %d, %v", stored, err)
		}
		want(t, ok(store.Put(ctx, "short", on(300*time.Second), settings.IfVersion(2))),
			settings.Settings{UserID: "short", IsEnabled: true, SessionDuration: 300 * time.Second, Version: 3})
	})
}

func TestAdoptersAreThoseWhoHaveItOn(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		for i := range 6 {
			ok(store.Put(ctx, fmt.Sprint(i), settings.Values{IsEnabled: i < 4, SessionDuration: time.Hour}, settings.Always))
		}
		ok(store.Delete(ctx, "0", settings.Always))
		if enabled, stored, err := store.Adopters(ctx); enabled != 3 || stored != 5 || err != nil {
			t.Errorf("%d enabled of %d stored, %v; want 3 of 5", enabled, stored, err)
		}
	})
}

func TestNoUpdateIsLost(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		const writers = 64
		var all sync.WaitGroup
		versions := make([]int64, writers)
		for i := range writers {
			all.Go(func() {
				// Each writes a value of its own, so each changes something.
				got, err := store.Put(ctx, "u", on(time.Hour+time.Duration(i)*time.Second), settings.Always)
				if err != nil {
					t.Error(err)
				}
				versions[i] = got.Version
			})
		}
		all.Wait()
		slices.Sort(versions)
		for i, v := range versions {
			if v != int64(i+1) {
				t.Fatalf("the versions of %d writes are %v", writers, versions)
			}
		}
		if got := ok(store.Get(ctx, "u")); got.Version != writers {
			t.Errorf("version %d after %d writes", got.Version, writers)
		}
	})
}

func TestPatchesOfDifferentFieldsBothHold(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx, ok := newStore(t, pool), t.Context(), must[settings.Settings](t)
		for round := range 20 {
			user := fmt.Sprint("user ", round)
			var both sync.WaitGroup
			for _, ch := range []settings.Change{{IsEnabled: new(true)}, {SessionDuration: new(2 * time.Hour)}} {
				both.Go(func() {
					if _, err := store.Patch(ctx, user, ch, settings.Always); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			want(t, ok(store.Get(ctx, user)), settings.Settings{UserID: user, IsEnabled: true, SessionDuration: 2 * time.Hour, Version: 2})
		}
	})
}

func TestOfConditionalWritesOnOneVersionOneWins(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx := newStore(t, pool), t.Context()
		for version := range int64(4) { // the first creates
			var all sync.WaitGroup
			var won atomic.Int64
			for i := range 16 {
				all.Go(func() {
					d := time.Duration(version)*time.Hour + time.Hour + time.Duration(i)*time.Second
					got, err := store.Put(ctx, "u", on(d), settings.IfVersion(version))
					switch {
					case err == nil && got.Version == version+1:
						won.Add(1)
					case !errors.Is(err, settings.ErrConflict):
						t.Errorf("version %d, %v", got.Version, err)
					}
				})
			}
			all.Wait()
			if n := won.Load(); n != 1 {
				t.Fatalf("%d writes won on version %d", n, version)
			}
		}
	})
}

func TestACancelledContextAndAClosedPoolAreUnavailable(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store := newStore(t, pool)
		calls := map[string]func(context.Context) error{
			"get":      func(ctx context.Context) error { _, err := store.Get(ctx, "u"); return err },
			"put":      func(ctx context.Context) error { _, err := put(store, ctx, "u", settings.Always); return err },
			"patch":    func(ctx context.Context) error { _, err := patchNothing(store, ctx, "u", settings.Always); return err },
			"delete":   func(ctx context.Context) error { _, err := store.Delete(ctx, "u", settings.IfVersion(1)); return err },
			"forget":   func(ctx context.Context) error { return store.Forget(ctx, "u") },
			"adopters": func(ctx context.Context) error { _, _, err := store.Adopters(ctx); return err },
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		for name, call := range calls {
			if err := call(cancelled); !errors.Is(err, settings.ErrUnavailable) || !errors.Is(err, context.Canceled) {
				t.Errorf("%s with a cancelled context: %v", name, err)
			}
		}
		if n := rows(t, pool); n != 0 {
			t.Errorf("cancelled calls left %d rows", n)
		}
		if err := pool.Close(); err != nil {
			t.Fatal(err)
		}
		for name, call := range calls {
			if err := call(t.Context()); !errors.Is(err, settings.ErrUnavailable) {
				t.Errorf("%s on a closed pool: %v", name, err)
			}
		}
	})
}

func TestDefaultsAreCompletedOrAllThatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	pool := sqlite(t)
	for _, test := range []struct {
		name string
		give settings.Defaults
		want settings.Defaults
		err  string
	}{
		{name: "zero is the documented", want: settings.Defaults{SessionDuration: time.Hour, Min: 5 * time.Minute, Max: 24 * time.Hour}},
		{name: "what is set stays", give: settings.Defaults{IsEnabled: true, SessionDuration: time.Minute, Min: time.Minute, Max: time.Minute},
			want: settings.Defaults{IsEnabled: true, SessionDuration: time.Minute, Min: time.Minute, Max: time.Minute}},
		{name: "a default outside the bounds", give: settings.Defaults{SessionDuration: time.Minute},
			err: "settings: defaults: SessionDuration is 1m0s, want 5m0s to 24h0m0s"},
		{name: "everything", give: settings.Defaults{SessionDuration: time.Millisecond, Min: 1 << 62, Max: -1},
			err: "settings: defaults: SessionDuration is 1ms, want whole seconds, 1 to 2147483647\n" +
				"Min is 1281023h53m38.427387904s, want whole seconds, 1 to 2147483647\n" +
				"Max is -1ns, want whole seconds, 1 to 2147483647\n" +
				"Min is 1281023h53m38.427387904s, above Max, -1ns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, err := settings.NewStore(pool, test.give)
			if text := fmt.Sprint(err); err != nil && text != test.err || err == nil && test.err != "" {
				t.Fatalf("got  %s\nwant %s", text, test.err)
			}
			if err == nil && store.Defaults() != test.want {
				t.Error(cmp.Diff(test.want, store.Defaults()))
			}
		})
	}
}
