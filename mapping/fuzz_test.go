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
			var parse *mapping.ParseError
			if !errors.As(err, &parse) || len(parse.Problems) == 0 || err.Error() == "" {
				t.Fatalf("%v says nothing", err)
			}
			last := 0
			for _, p := range parse.Problems {
				if p.Line < last || p.Line > 1+bytes.Count(data, []byte("\n")) {
					t.Errorf("line %d after %d: %s", p.Line, last, p)
				}
				last = p.Line
			}
			return
		}
		again, err := mapping.Parse(encode(t, table))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(table.Models(), again.Models()); diff != "" || table.Default() != again.Default() {
			t.Errorf("encoded and parsed again (-first +second):\n%s", diff)
		}
	})
}

// encode writes a table as the file that makes it.
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
	table := merged(f)
	for _, m := range table.Models() {
		f.Add(m.Name, string(mapping.LLM))
		f.Add(m.Name+"-instruct-turbo", "")
		f.Add(m.ID, string(mapping.TTS))
	}
	f.Add(" \xff", "")
	f.Fuzz(func(t *testing.T, name, want string) {
		m, err := table.Resolve(name, mapping.Type(want))
		var miss *mapping.NotFoundError
		switch {
		case err == nil:
			if want != "" && m.Type != "" && string(m.Type) != want {
				t.Errorf("%q serves %q with %+v", name, want, m)
			}
			if byID, err := table.Resolve(m.ID, ""); err != nil || byID.ID != m.ID {
				t.Errorf("by its id, %+v is %+v, %v", m, byID, err)
			}
			for _, spelled := range []string{strings.ToUpper(name), strings.ToLower(name)} {
				if !strings.EqualFold(spelled, name) {
					continue // İ and its like
				}
				if other, err := table.Resolve(spelled, mapping.Type(want)); err != nil || other != m {
					t.Errorf("%q is %+v, %q is %+v, %v", name, m, spelled, other, err)
				}
			}
		case errors.As(err, &miss):
			if len(miss.Suggestions) > 5 {
				t.Errorf("%d suggestions", len(miss.Suggestions))
			}
			for _, s := range miss.Suggestions {
				if _, err := table.Resolve(s, ""); err != nil {
					t.Errorf("a suggestion that does not resolve: %v", err)
				}
			}
		case !isTypeMismatch(err):
			t.Error(err)
		}
	})
}
