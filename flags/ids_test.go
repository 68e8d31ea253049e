package flags_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

func TestIDs_AreAJSONListOfStrings(t *testing.T) {
	var s struct{ A, B, C flags.IDs }
	if err := json.Unmarshal([]byte(`{"A":[10,"9","a",9],"B":[]}`), &s); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"A":["10","9","a"],"B":[],"C":[]}`; string(got) != want {
		t.Errorf("JSON %s, want %s", got, want)
	}
	if !s.A.Equal(flags.NewIDs("a", "10", "9")) || s.A.Equal(s.B) || !s.B.Equal(s.C) {
		t.Error("Equal does not compare the ids")
	}
	if err := json.Unmarshal([]byte(`{"A":[1.5]}`), &s); err == nil || s.A.Len() != 3 {
		t.Errorf("reading a fraction: list %v, error %v; want the list unchanged and an error", s.A.List(), err)
	}
}

func TestIDs_HaveTheGivenIDs(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{0, 1, 2, 3, 100, flagsql.MaxIDs} {
		var list []string
		want := map[string]bool{}
		for range n {
			id := strconv.Itoa(r.IntN(n))
			list = append(list, id)
			want[id] = true
		}
		s := flags.NewIDs(list...)
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), s.List()); diff != "" || s.Len() != len(want) {
			t.Fatalf("a set of %d different ids: Len %d, List (-want +got):\n%s", len(want), s.Len(), diff)
		}
		for i := range 2 * n {
			if id := strconv.Itoa(i); s.Has(id) != want[id] {
				t.Fatalf("Has(%q) = %t, want %t, in a set of %d ids", id, s.Has(id), want[id], s.Len())
			}
		}
	}
}
