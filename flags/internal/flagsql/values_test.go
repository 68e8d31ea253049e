package flagsql

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseIDs(t *testing.T) {
	for list, want := range map[string][]string{
		`[]`:                                     nil,
		" [\t]\r\n":                              nil,
		`[1, 2, 3]`:                              {"1", "2", "3"},
		`[7, "7"]`:                               {"7", "7"},
		`[0, -0, -5]`:                            {"0", "0", "-5"},
		`[123456789012345678901234567890]`:       {"123456789012345678901234567890"},
		`["a,b", "c]d", "1.5", "007"]`:           {"a,b", "c]d", "1.5", "007"},
		`["\u0041\n\"\\\/\b\f\r\t\uD83D\ude00"]`: {"A\n\"\\/\b\f\r\t😀"},
		`["é😀"]`:                                 {"é😀"},
		"[\"\ufffd\"]":                           {"\ufffd"},
	} {
		got, err := ParseIDs(list)
		if err != nil {
			t.Errorf("ParseIDs(%s): %v", list, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("ParseIDs(%s): %s", list, diff)
		}
	}
}

func TestParseIDs_NamesWhatIsWrong(t *testing.T) {
	for list, want := range map[string]string{
		``:                 "not valid JSON: unexpected EOF",
		`null`:             "must be a list, not null",
		`{"a":1}`:          "must be a list, not an object",
		`"1,2"`:            "must be a list, not a string",
		`7`:                "must be a list, not a number",
		`true`:             "must be a list, not a bool",
		`abc`:              "not valid JSON: invalid character 'a' looking for beginning of value",
		`[`:                "not valid JSON: unexpected EOF",
		`[1`:               "not valid JSON: unexpected EOF",
		`[1,]`:             "not valid JSON: invalid character ']' looking for beginning of value",
		`[1 2]`:            "not valid JSON: invalid character '2' after array element",
		`[1] 2`:            "something follows the list",
		"[]\x00":           "something follows the list",
		`[[1]]`:            "element 1: must be a whole number or a string, not a list",
		`[1, {}]`:          "element 2: must be a whole number or a string, not an object",
		`[null]`:           "element 1: must be a whole number or a string, not null",
		`[true]`:           "element 1: must be a whole number or a string, not true or false",
		`[1.5]`:            "element 1: must be a whole number, without fraction or exponent",
		`[1e3]`:            "element 1: must be a whole number, without fraction or exponent",
		`[01]`:             "not valid JSON: invalid character '1' after array element",
		`[""]`:             "element 1: an empty string is no id",
		`["\ud83d"]`:       "element 1: an escape is half a surrogate pair",
		`["\ude00\ud83d"]`: "element 1: an escape is half a surrogate pair",
		`["\u0000"]`:       "element 1: the text holds U+0000",
		"[\"\xff\"]":       "the list is not valid UTF-8",
	} {
		_, err := ParseIDs(list)
		if err == nil || err.Error() != want {
			t.Errorf("ParseIDs(%.40q): %v, want %s", list, err, want)
		}
	}
}

// FuzzParseIDs checks that what is read is what PostgreSQL takes, and is read
// again as the same.
func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{`[]`, `[1,"1",-2]`, ` [ "a\u00e9\ud83d\ude00" , 0 ] `, `[1.5]`, `[[]]`, `["\ud800"]`, `["\u0000"]`, `null`, `[1,`, `["\"]`, `[-0]`, "[\"\xff\"]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		ids, err := ParseIDs(list)
		if err != nil {
			return
		}
		if !json.Valid([]byte(list)) {
			t.Fatalf("%q is read as %q, and is not JSON", list, ids)
		}
		for _, id := range ids {
			if CheckID(id) != nil || strings.Contains(id, "\ufffd") && !strings.Contains(list, "\ufffd") && !strings.Contains(strings.ToLower(list), `\ufffd`) {
				t.Fatalf("%q is read as %q", list, ids)
			}
		}
		text, err := json.Marshal(ids)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseIDs(string(text)); err != nil || !slices.Equal(again, ids) {
			t.Fatalf("%q comes back from %s as %q, %v", ids, text, again, err)
		}
	})
}
