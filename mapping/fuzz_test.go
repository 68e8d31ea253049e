package mapping_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/invalid/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range append(seeds, "testdata/mapping.json", "../model_mappings.json") {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		table, err := mapping.Parse(data)
		if err != nil {
			var parseErr *mapping.ParseError
			if !errors.As(err, &parseErr) || len(parseErr.Problems) == 0 || err.Error() == "" {
				t.Fatalf("error %v, want a ParseError with problems", err)
			}
			lines := 1 + bytes.Count(data, []byte("\n"))
			last := 0
			for _, p := range parseErr.Problems {
				if p.Line < last || p.Line > lines {
					t.Errorf("the problem %q comes after one of line %d, in a file of %d lines", p, last, lines)
				}
				last = p.Line
			}
			return
		}
		again, err := mapping.Parse(encode(t, table))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(table.Models(), again.Models()); diff != "" {
			t.Errorf("models encoded and parsed again (-first +second):\n%s", diff)
		}
		if diff := cmp.Diff(table.Default(), again.Default()); diff != "" {
			t.Errorf("default encoded and parsed again (-first +second):\n%s", diff)
		}
	})
}

// encode returns a file that has the table.
func encode(t *testing.T, table *mapping.Table) []byte {
	text := map[string]string{"default": table.Default().ID}
	for _, m := range table.Models() {
		text[m.Name] = m.ID
		if m.Match == mapping.MatchDefault {
			text[m.Name] = "default"
		}
	}
	data, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzResolve(f *testing.F) {
	table := mergedTable(f)
	for _, m := range table.Models() {
		f.Add(m.Name, string(mapping.LLM))
		f.Add(m.Name+"-instruct-turbo", "")
		f.Add(m.ID, string(mapping.TTS))
	}
	f.Add(" \xff", "")
	f.Fuzz(func(t *testing.T, name, want string) {
		m, err := table.Resolve(name, mapping.Type(want))
		var notFound *mapping.NotFoundError
		switch {
		case err == nil:
			if want != "" && m.Type != "" && string(m.Type) != want {
				t.Errorf("%q for a request of type %q resolves to %+v", name, want, m)
			}
			if byID, err := table.Resolve(m.ID, ""); err != nil || byID.ID != m.ID {
				t.Errorf("the id of %+v resolves to %+v, %v", m, byID, err)
			}
			for _, otherCase := range []string{strings.ToUpper(name), strings.ToLower(name)} {
				if !strings.EqualFold(otherCase, name) {
					continue // letters such as İ
				}
				if other, err := table.Resolve(otherCase, mapping.Type(want)); err != nil || other != m {
					t.Errorf("%q resolves to %+v, but %q to %+v, %v", name, m, otherCase, other, err)
				}
			}
		case errors.As(err, &notFound):
			if len(notFound.Suggestions) > 5 {
				t.Errorf("%d suggestions, want at most 5", len(notFound.Suggestions))
			}
			for _, s := range notFound.Suggestions {
				if _, err := table.Resolve(s, ""); err != nil {
					t.Errorf("the suggestion %q does not resolve: %v", s, err)
				}
			}
		case !isTypeMismatch(err):
			t.Errorf("error %v, want a NotFoundError or a TypeMismatchError", err)
		}
	})
}
