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
		``:                 "line 1, column 1: the text is empty",
		`null`:             "line 1, column 1: the text must not be null",
		`{"a":1}`:          "line 1, column 1: the text must be a list",
		`"1,2"`:            "line 1, column 1: the text must be a list",
		`7`:                "line 1, column 1: the text must be a list",
		`true`:             "line 1, column 1: the text must be a list",
		`abc`:              "line 1, column 1: the text is not valid JSON: invalid character 'a' looking for beginning of value",
		`[`:                "line 1, column 1: the text is not valid JSON: unexpected end of JSON input",
		`[1`:               "line 1, column 2: the text is not valid JSON: unexpected end of JSON input",
		`[1,]`:             "line 1, column 4: the text is not valid JSON: invalid character ']' looking for beginning of value",
		`[1 2]`:            "line 1, column 4: the text is not valid JSON: invalid character '2' after array element",
		`[1] 2`:            "line 1, column 5: the text is not valid JSON: invalid character '2' after top-level value",
		"[]\x00":           "line 1, column 3: the text is not valid JSON: invalid character '\\x00' after top-level value",
		`[[1]]`:            "line 1, column 2: [0]: must be a whole number or a string",
		`[1, {}]`:          "line 1, column 5: [1]: must be a whole number or a string",
		`[null]`:           "line 1, column 2: [0]: must not be null",
		`[true]`:           "line 1, column 2: [0]: must be a whole number or a string",
		`[1.5]`:            "line 1, column 2: [0]: must be a whole number, without fraction or exponent",
		`[1e3]`:            "line 1, column 2: [0]: must be a whole number, without fraction or exponent",
		`[01]`:             "line 1, column 3: the text is not valid JSON: invalid character '1' after array element",
		`[""]`:             "line 1, column 2: [0]: must not be empty",
		`["\ud83d"]`:       "line 1, column 2: [0]: must not contain half a surrogate pair",
		`["\ude00\ud83d"]`: "line 1, column 2: [0]: must not contain half a surrogate pair",
		`["\u0000"]`:       "line 1, column 2: [0]: must not contain the character U+0000",
		"[\"\xff\"]":       "line 1, column 3: the text is not valid UTF-8",
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
