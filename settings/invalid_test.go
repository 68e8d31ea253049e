package settings_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/settings"
)

func TestStore_NamesInvalidArgumentsWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, pool *sqlx.DB) {
		store, ctx := newStore(t, pool), t.Context()
		if err := pool.Close(); err != nil { // any query would fail with another error
			t.Fatal(err)
		}
		for _, user := range []string{"", strings.Repeat("x", 257), "a\xff", "a\x00b", "a\nb", "\u0085"} {
			for name, call := range map[string]func() error{
				"get":    func() error { _, err := store.Get(ctx, user); return err },
				"put":    func() error { _, err := put(ctx, store, user, settings.Always); return err },
				"patch":  func() error { _, err := patchNothing(ctx, store, user, settings.Always); return err },
				"delete": func() error { _, err := store.Delete(ctx, user, settings.Always); return err },
				"erase":  func() error { return store.EraseUser(ctx, user) },
			} {
				err := call()
				if fields := invalidFields(err); !isInvalid(err) || !slices.Equal(fields, []string{"user_id"}) {
					t.Errorf("%s(%q): error %v about the fields %v, want an InvalidError about user_id", name, user, err, fields)
				}
				if len(user) > 1 && strings.Contains(err.Error(), user) {
					t.Errorf("%s(%q): the error names the user: %v", name, user, err)
				}
			}
		}
		for _, d := range []time.Duration{0, -time.Hour, 299 * time.Second, 301*time.Second + 1, 24*time.Hour + time.Second, math.MaxInt64} {
			_, err := store.Put(ctx, "u", on(d), settings.Always)
			if fields := invalidFields(err); !isInvalid(err) || !slices.Equal(fields, []string{"session_duration"}) {
				t.Errorf("Put of %v: error %v about the fields %v, want an InvalidError about session_duration", d, err, fields)
			}
		}
		_, err := store.Patch(ctx, "", settings.Change{SessionDuration: new(time.Second)}, settings.Always)
		if fields := invalidFields(err); !slices.Equal(fields, []string{"user_id", "session_duration"}) {
			t.Errorf("two invalid arguments: error %v about the fields %v, want both", err, fields)
		}
		const text = "settings.patch: user_id: must be 1 to 256 bytes long, not 0\nsession_duration: must be whole seconds from 300 to 86400"
		if err.Error() != text {
			t.Errorf("got  %s\nwant %s", err, text)
		}
	})
}

// invalidFields returns the fields that the InvalidErrors in err name.
func invalidFields(err error) (fields []string) {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself
	case *settings.InvalidError:
		return []string{e.Field}
	case interface{ Unwrap() error }:
		return invalidFields(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			fields = append(fields, invalidFields(e)...)
		}
	}
	return fields
}

func TestDefaults_AreCompletedAndValidated(t *testing.T) {
	t.Parallel()
	pool := sqlite(t)
	for _, test := range []struct {
		name string
		give settings.Defaults
		want settings.Defaults
		err  string
	}{
		{name: "zero values get the documented defaults", want: settings.Defaults{SessionDuration: time.Hour, Min: 5 * time.Minute, Max: 24 * time.Hour}},
		{name: "other values are kept", give: settings.Defaults{IsEnabled: true, SessionDuration: time.Minute, Min: time.Minute, Max: time.Minute},
			want: settings.Defaults{IsEnabled: true, SessionDuration: time.Minute, Min: time.Minute, Max: time.Minute}},
		{name: "a default outside the bounds", give: settings.Defaults{SessionDuration: time.Minute},
			err: "settings: defaults: SessionDuration is 1m0s, want 5m0s to 24h0m0s"},
		{name: "every field is invalid", give: settings.Defaults{SessionDuration: time.Millisecond, Min: 1 << 62, Max: -1},
			err: "settings: defaults: SessionDuration is 1ms, want whole seconds, 1 to 2147483647\n" +
				"Min is 1281023h53m38.427387904s, want whole seconds, 1 to 2147483647\n" +
				"Max is -1ns, want whole seconds, 1 to 2147483647\n" +
				"bounds: Min is 1281023h53m38.427387904s, above Max, -1ns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store, err := settings.NewStore(pool, test.give, settings.StoreOptions{})
			if text := fmt.Sprint(err); err != nil && text != test.err || err == nil && test.err != "" {
				t.Fatalf("got  %s\nwant %s", text, test.err)
			}
			if err == nil && store.Defaults() != test.want {
				t.Errorf("defaults (-want +got):\n%s", cmp.Diff(test.want, store.Defaults()))
			}
		})
	}
}

func isInvalid(err error) bool {
	_, ok := errors.AsType[*settings.InvalidError](err)
	return ok
}
