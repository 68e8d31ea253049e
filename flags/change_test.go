package flags_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func TestAChangeThatIsNotAcceptableNamesEveryField(t *testing.T) {
	store := flags.NewStore(sqlite(t).DB)
	_, err := store.Update(t.Context(), "automation", flags.Change{
		EnabledUserIDs:  ptr(flags.NewIDs("")),
		DisabledUserIDs: ptr(flags.NewIDs("a\xff")),
		Percentage:      ptr(101 * flags.Percent),
		Seed:            ptr(strings.Repeat("x", 256)),
		Notice:          ptr("a\x00"),
	}, "", 0)
	if !errors.Is(err, flags.ErrInvalid) {
		t.Fatal(err)
	}
	want := `flags: update("automation"): enabled_user_ids: an empty text is no id
disabled_user_ids: the text is no valid UTF-8
rollout_percentage: 101 is not within 0 and 100
seed: the text has 256 bytes, at most 255 are allowed
notice: the text holds U+0000
actor: who makes the change is wanted, for the audit`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]struct {
		change flags.Change
		actor  string
	}{
		"a negative percentage": {flags.Change{Percentage: ptr(flags.Percentage(-1))}, "x"},
		"a long notice":         {flags.Change{Notice: ptr(strings.Repeat("x", 4097))}, "x"},
		"a long actor":          {flags.Change{}, strings.Repeat("x", 256)},
		"a list that is larger than what can be read back": {flags.Change{EnabledUserIDs: ptr(flags.NewIDs(strings.Repeat("x", flags.MaxList)))}, "x"},
	} {
		if _, err := store.Update(t.Context(), "automation", c.change, c.actor, 0); !errors.Is(err, flags.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f, err := store.Get(t.Context(), "automation"); err != nil || f.Version != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestChangeFromJSON(t *testing.T) {
	var c flags.Change
	if err := json.Unmarshal([]byte(`{"enabled":false,"enabled_user_ids":[7,"7","x"],"disabled_user_ids":[],"rollout_percentage":12.5,"seed":"s","notice":""}`), &c); err != nil {
		t.Fatal(err)
	}
	want := flags.Change{
		Enabled: ptr(false), EnabledUserIDs: ptr(flags.NewIDs("7", "x")), DisabledUserIDs: ptr(flags.IDs{}),
		Percentage: ptr(flags.Percentage(1250)), Seed: ptr("s"), Notice: ptr(""),
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	c = flags.Change{}
	err := json.Unmarshal([]byte(`{"enabled":"yes","enabled_user_ids":"1,2","disabled_user_ids":null,"rollout_percentage":"10","seed":7,"version":3}`), &c)
	if !errors.Is(err, flags.ErrInvalid) {
		t.Fatal(err)
	}
	wrong := `disabled_user_ids: null is no value; leave the field out to keep it
enabled: a bool is wanted, not a string
enabled_user_ids: a list is wanted, not a text
rollout_percentage: "\"10\"" is no number
seed: a string is wanted, not a number
version: a flag has no such field that can be changed`
	if diff := cmp.Diff(wrong, err.Error()); diff != "" {
		t.Error(diff)
	}
	for _, s := range []string{`null`, `[]`, `7`} {
		if err := json.Unmarshal([]byte(s), &c); !errors.Is(err, flags.ErrInvalid) {
			t.Errorf("%s: %v", s, err)
		}
	}
}
