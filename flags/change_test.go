package flags_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

func TestStore_UpdateNamesEveryInvalidField(t *testing.T) {
	store := flags.NewStore(sqlite(t).DB, flags.StoreOptions{})
	_, err := store.Update(t.Context(), "automation", flags.Change{
		EnabledUserIDs:  ptr(flags.NewIDs("")),
		DisabledUserIDs: ptr(flags.NewIDs("a\xff")),
		Percentage:      ptr(101 * flags.Percent),
		Seed:            ptr(strings.Repeat("x", 256)),
		Notice:          ptr("a\x00"),
	}, "", 0)
	if !errors.Is(err, flags.ErrInvalid) {
		t.Fatalf("Update returned %v, want ErrInvalid", err)
	}
	want := `flags: update("automation"): enabled_user_ids: must not be empty
disabled_user_ids: must be valid UTF-8
rollout_percentage: 101 is not between 0 and 100
seed: the text has 256 bytes, at most 255 are allowed
notice: must not contain the character U+0000
actor: must name who makes the change, for the audit`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		change flags.Change
		actor  string
	}{
		"a negative percentage":          {flags.Change{Percentage: ptr(flags.Percentage(-1))}, "x"},
		"a long notice":                  {flags.Change{Notice: ptr(strings.Repeat("x", 4097))}, "x"},
		"a long actor":                   {flags.Change{}, strings.Repeat("x", 256)},
		"a list of more than 10,000 ids": {flags.Change{EnabledUserIDs: ptr(ids(flagsql.MaxIDs + 1))}, "x"},
	} {
		if _, err := store.Update(t.Context(), "automation", c.change, c.actor, 0); !errors.Is(err, flags.ErrInvalid) {
			t.Errorf("Update with %s returned %v, want ErrInvalid", name, err)
		}
	}
	if f, err := store.Get(t.Context(), "automation"); err != nil || f.Version != 1 {
		t.Errorf("after invalid updates the flag is %+v, %v; want version 1", f, err)
	}
}
