package flags_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func TestParseIDs(t *testing.T) {
	for list, want := range map[string][]string{
		`[]`:                                     nil,
		" [\t]\r\n":                              nil,
		`[1, 2, 3]`:                              {"1", "2", "3"},
		`[7, "7"]`:                               {"7"},
		`[0, -0, -5]`:                            {"-5", "0"},
		`[123456789012345678901234567890]`:       {"123456789012345678901234567890"},
		`["a,b", "c]d", "1.5", "007"]`:           {"007", "1.5", "a,b", "c]d"},
		`["\u0041\n\"\\\/\b\f\r\t\uD83D\ude00"]`: {"A\n\"\\/\b\f\r\t😀"},
		`["é😀"]`:                                 {"é😀"},
	} {
		got, err := flags.ParseIDs(list)
		if err != nil {
			t.Errorf("ParseIDs(%s): %v", list, err)
			continue
		}
		if diff := cmp.Diff(want, got.List()); diff != "" {
			t.Errorf("ParseIDs(%s): %s", list, diff)
		}
	}
}

func TestParseIDsNamesWhatIsWrong(t *testing.T) {
	for list, want := range map[string]string{
		``:                                   "a list is wanted, not the end",
		`null`:                               "a list is wanted, not null",
		`{"a":1}`:                            "a list is wanted, not an object",
		`"1,2"`:                              "a list is wanted, not a text",
		`7`:                                  "a list is wanted, not a number",
		`true`:                               "a list is wanted, not true or false",
		`1,2`:                                "a list is wanted, not a number",
		`abc`:                                "a list is wanted, not something that is no JSON",
		`[`:                                  "element 1: a whole number or a text is wanted, not the end",
		`[1`:                                 "after element 1: a comma or the list's end is wanted, not the end",
		`[1,]`:                               "element 2: a whole number or a text is wanted, not something that is no JSON",
		`[1 2]`:                              "after element 1: a comma or the list's end is wanted, not a number",
		`[1] 2`:                              "after the list: nothing is wanted, not a number",
		"[]\x00":                             "after the list: nothing is wanted, not something that is no JSON",
		`[[1]]`:                              "element 1: a whole number or a text is wanted, not a list",
		`[1, {}]`:                            "element 2: a whole number or a text is wanted, not an object",
		`[null]`:                             "element 1: a whole number or a text is wanted, not null",
		`[1.5]`:                              "element 1: a whole number is wanted, without fraction or exponent",
		`[1e3]`:                              "element 1: a whole number is wanted, without fraction or exponent",
		`[01]`:                               "element 1: that is no JSON number",
		`[-]`:                                "element 1: that is no JSON number",
		`[""]`:                               "element 1: an empty text is no id",
		`["a]`:                               "element 1: the text has no end",
		`["\`:                                "element 1: the text has no end",
		`["\n`:                               "element 1: the text has no end",
		`["\x"]`:                             "element 1: the text holds an escape that is none",
		`["\u12"]`:                           "element 1: the text holds an escape that is none",
		`["\u12g4"]`:                         "element 1: the text holds an escape that is none",
		`["\ud83d"]`:                         "element 1: the text holds an escape that is none",
		`["\ud83d\u0041"]`:                   "element 1: the text holds an escape that is none",
		`["\ude00\ud83d"]`:                   "element 1: the text holds an escape that is none",
		"[\"a\nb\"]":                         "element 1: the text holds a control character",
		"[\"\\n\n\"]":                        "element 1: the text holds a control character",
		`["\u0000"]`:                         "element 1: the text holds U+0000",
		"[\"\xff\"]":                         "element 1: the text is no valid UTF-8",
		strings.Repeat(" ", flags.MaxList+1): "the list has 67108865 bytes, at most 67108864 are allowed",
	} {
		_, err := flags.ParseIDs(list)
		if err == nil || err.Error() != want {
			t.Errorf("ParseIDs(%.40q): %v, want %s", list, err, want)
		}
	}
}

func TestIDsAreAJSONListOfTexts(t *testing.T) {
	var s struct{ A, B, C flags.IDs }
	if err := json.Unmarshal([]byte(`{"A":[10,"9","a"],"B":[]}`), &s); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"A":["10","9","a"],"B":[],"C":[]}`; string(got) != want {
		t.Errorf("%s, want %s", got, want)
	}
	if !s.A.Equal(flags.NewIDs("a", "10", "9")) || s.A.Equal(s.B) || !s.B.Equal(s.C) {
		t.Error("Equal does not compare the ids")
	}
}

// Ids of all lengths, some twice, against a map; long ones have a longer length.
func TestASetHoldsWhatWasPutIn(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{0, 1, 2, 3, 100, 20_000} {
		var list []string
		want := map[string]bool{}
		for range n {
			id := strings.Repeat("x", []int{0, 1, 7, 127, 128, 300}[r.IntN(6)]) + strconv.Itoa(r.IntN(n))
			list = append(list, id)
			want[id] = true
		}
		s := flags.NewIDs(list...)
		if s.Len() != len(want) || !slices.Equal(s.List(), slices.Sorted(maps.Keys(want))) {
			t.Fatalf("of %d ids, %d different, %d are in the set", n, len(want), s.Len())
		}
		for i := range 2 * n {
			for _, id := range []string{strconv.Itoa(i), "x" + strconv.Itoa(i), strconv.Itoa(i) + "x"} {
				if s.Has(id) != want[id] {
					t.Fatalf("Has(%q) = %t among %d", id, s.Has(id), n)
				}
			}
		}
	}
	if s := flags.NewIDs(""); !s.Has("") || s.Has("x") || s.Equal(flags.NewIDs("x")) || s.Equal(flags.IDs{}) {
		t.Error("a set of the empty text")
	}
}

// FuzzIDs holds the parser against encoding/json, which knows no bounds and
// lets more pass.
func FuzzIDs(f *testing.F) {
	for _, s := range []string{`[]`, `[1,"1",-2]`, ` [ "a\u00e9\ud83d\ude00" , 0 ] `, `[1.5]`, `[[]]`, `["\ud800"]`, `["\u0000"]`, `null`, `[1,`, `["\"]`, `[-0]`, "[\"\xff\"]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		got, err := flags.ParseIDs(list)
		want, ok := byEncodingJSON(list)
		if err == nil && !ok {
			t.Fatalf("%q is taken for %q, and should not be", list, got.List())
		}
		if err != nil {
			// What only we refuse is what encoding/json would replace, and U+0000.
			if ok && !slices.ContainsFunc(want, func(id string) bool { return strings.ContainsAny(id, "\ufffd\x00") }) {
				t.Fatalf("%q is refused: %v", list, err)
			}
			return
		}
		if !got.Equal(flags.NewIDs(want...)) {
			t.Fatalf("%q: %q, want %q", list, got.List(), want)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := flags.ParseIDs(string(again)); err != nil || !back.Equal(got) {
			t.Fatalf("%q comes back from %s as %q, %v", got.List(), again, back.List(), err)
		}
	})
}

func byEncodingJSON(list string) (ids []string, ok bool) {
	d := json.NewDecoder(bytes.NewReader([]byte(list)))
	d.UseNumber()
	var elements []any
	if err := d.Decode(&elements); err != nil || elements == nil || !json.Valid([]byte(list)) {
		return nil, false
	}
	for _, e := range elements {
		switch e := e.(type) {
		case string:
			ids = append(ids, e)
		case json.Number:
			if strings.ContainsAny(e.String(), ".eE") {
				return nil, false
			}
			if e == "-0" {
				e = "0"
			}
			ids = append(ids, e.String())
		default:
			return nil, false
		}
	}
	return ids, !slices.Contains(ids, "")
}
