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
			t.Errorf("ParseIDs(%s) (-want +got):\n%s", list, diff)
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
			t.Errorf("ParseIDs(%.40q): error %v, want %s", list, err, want)
		}
	}
}

// FuzzParseIDs checks that accepted ids are acceptable to PostgreSQL, and that
// they are the same after they are written and parsed again.
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
			t.Fatalf("%q is not JSON, but is parsed as %q", list, ids)
		}
		// JSON decoders replace what is not valid Unicode by U+FFFD.
		hasReplacement := strings.Contains(list, "\ufffd") || strings.Contains(strings.ToLower(list), `\ufffd`)
		for _, id := range ids {
			if err := CheckID(id); err != nil {
				t.Fatalf("%q is parsed as %q, with an invalid id: %v", list, ids, err)
			}
			if strings.Contains(id, "\ufffd") && !hasReplacement {
				t.Fatalf("%q is parsed as %q, with a replaced character", list, ids)
			}
		}
		text, err := json.Marshal(ids)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseIDs(string(text)); err != nil || !slices.Equal(again, ids) {
			t.Fatalf("%q is written as %s and parsed as %q, %v", ids, text, again, err)
		}
	})
}
