package mapping

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzFold_AgreesWithEqualFold(f *testing.F) {
	for _, pair := range [][2]string{{"Llama", "LLAMA"}, {"K", "\u212a"}, {"ſ", "S"}, {"ß", "ẞ"}, {"ς", "Σ"}, {"İ", "i"}, {"a", "b"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) {
			return
		}
		if got, want := foldString(a) == foldString(b), strings.EqualFold(a, b); got != want {
			t.Errorf("%q and %q fold to the same: %t, EqualFold: %t", a, b, got, want)
		}
		if folded := foldString(a); len(folded) > len(a) {
			t.Errorf("%q folds to %q, which is longer", a, folded)
		}
	})
}

func FuzzFeed(f *testing.F) {
	data, err := os.ReadFile("testdata/feed.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`[{"id":"0x` + strings.Repeat("1", 64) + `","name":"x"}]`))
	mappings := file{defaultID: "0x" + strings.Repeat("a", 64), models: []Model{{Name: "llama-3.3-70b", ID: "0x" + strings.Repeat("c", 64), Match: matchName}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		resp, err := parseFeed(data)
		if err != nil {
			return
		}
		table := build(mappings, resp.models, nil)
		for _, want := range []struct{ name, id string }{{"", mappings.defaultID}, {"Default", mappings.defaultID}, {"LLAMA-3.3-70b", mappings.models[0].ID}} {
			if m, err := table.Resolve(want.name, ""); err != nil || m.ID != want.id {
				t.Errorf("with the feed, the file's name %q resolves to %+v, %v; want %s", want.name, m, err, want.id)
			}
		}
		for _, m := range resp.models {
			if got, err := table.Resolve(m.id, ""); err != nil || got.ID != m.id {
				t.Errorf("the id of the feed's model %+v resolves to %+v, %v", m, got, err)
			}
		}
		for _, m := range table.Models() {
			if got, err := table.Resolve(m.Name, ""); err != nil || got.ID != m.ID {
				t.Errorf("the name of %+v resolves to %+v, %v", m, got, err)
			}
		}
	})
}

func FuzzSimilarity_IsByTheLongestCommonSubsequence(f *testing.F) {
	f.Add("llama-3.3-70b", "llama-3.1-70b")
	f.Add(strings.Repeat("abc", 60), strings.Repeat("acb", 70))
	f.Add("", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		if len(a) > maxName || len(b) > maxName {
			return
		}
		row := make([]int, len(b)+1) // of the textbook's dynamic programming
		for i := range len(a) {
			diagonal := 0
			for j := range len(b) {
				above := row[j+1]
				if a[i] == b[j] {
					row[j+1] = diagonal + 1
				} else {
					row[j+1] = max(above, row[j])
				}
				diagonal = above
			}
		}
		want := 2 * float64(row[len(b)]) / float64(len(a)+len(b))
		got := newPattern(a).similarity(b)
		isZeroAllowed := !(want >= minSimilarity)
		if got != want && !(got == 0 && isZeroAllowed) {
			t.Errorf("similarity of %q and %q is %v, want %v", a, b, got, want)
		}
	})
}
