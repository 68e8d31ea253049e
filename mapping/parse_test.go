package mapping_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

var update = flag.Bool("update", false, "write the golden files")

func TestLoad_ReportsEveryProblemWithItsLine(t *testing.T) {
	files, err := filepath.Glob("testdata/invalid/*.json")
	if err != nil || len(files) < 10 {
		t.Fatalf("testdata/invalid has %d files, %v; want at least 10", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			_, err := mapping.Load(path)
			var parseErr *mapping.ParseError
			if !errors.As(err, &parseErr) {
				t.Fatalf("Load: error %v, want a ParseError", err)
			}
			if !strings.Contains(err.Error(), path) {
				t.Errorf("the error %q does not name the file", err)
			}
			var got strings.Builder
			for _, p := range parseErr.Problems {
				fmt.Fprintln(&got, p)
			}
			golden := strings.TrimSuffix(path, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseError_TextHasTheFirstTenProblems(t *testing.T) {
	var text strings.Builder
	text.WriteString("{\"default\": \"" + id("a") + "\"")
	for i := range 30 {
		fmt.Fprintf(&text, ",\n\"name %d\": \"%s\"", i, strings.Repeat("x", 1000))
	}
	text.WriteString("}")
	_, err := mapping.Parse([]byte(text.String()))
	var parseErr *mapping.ParseError
	if !errors.As(err, &parseErr) || len(parseErr.Problems) != 30 {
		t.Fatalf("error %v, want a ParseError with 30 problems", err)
	}
	if got := err.Error(); len(got) > 3000 || !strings.HasSuffix(got, "and 20 more") {
		t.Errorf("the text has %d bytes and ends in %q; want at most 3,000 bytes and \"and 20 more\"", len(got), got[max(0, len(got)-20):])
	}
}

func TestLoad_AcceptsUnusualFiles(t *testing.T) {
	for name, text := range map[string]string{
		"a byte order mark":              "\xef\xbb\xbf" + `{"default":"` + id("a") + `"}`,
		"the default alone":              `{"default":"` + id("a") + `"}`,
		"the reserved name in capitals":  `{"DEFAULT":"` + id("a") + `","x":"Default"}`,
		"hex digits in capitals":         `{"default":"0x` + strings.Repeat("A", 64) + `"}`,
		"the default after its users":    `{"x":"default","default":"` + id("a") + `"}`,
		"an escaped name, lines by CRLF": "{\r\n\"default\":\"" + id("a") + "\",\r\n\"\\u00e9 \\/x\":\"" + id("a") + "\"\r\n}",
	} {
		t.Run(name, func(t *testing.T) {
			table, err := mapping.Parse([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if got := table.Default().ID; got != id("a") {
				t.Errorf("the default is %s, want %s", got, id("a"))
			}
		})
	}
}

func TestLoad_RejectsOtherThanSmallRegularFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := mapping.Load(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: error %v, want ErrNotExist", err)
	}
	if _, err := mapping.Load(dir); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a directory: error %v, want one that it is not a regular file", err)
	}
	huge := filepath.Join(dir, "huge")
	f, err := os.Create(huge)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil { // 1 TiB, which takes no space in a sparse file
		t.Skipf("no sparse files here: %v", err)
	}
	var parseErr *mapping.ParseError
	if _, err := mapping.Load(huge); !errors.As(err, &parseErr) || !strings.Contains(err.Error(), "larger than 8388608 bytes") {
		t.Errorf("a huge file: error %v, want a ParseError about its size", err)
	}
}

func TestReferenceMapping_IsValid(t *testing.T) {
	table, err := mapping.Load("../model_mappings.json")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(table.Models()); n < 25 {
		t.Errorf("%d models, want at least 25", n)
	}
	for _, name := range []string{"", "llama-3.3-70b", "Hermes 3 Llama 3.1", "glm-5.1:web", "text-embedding-bge-m3"} {
		if _, err := table.Resolve(name, mapping.LLM); err != nil {
			t.Errorf("Resolve(%q): %v", name, err)
		}
	}
}

// id returns a model id that repeats one hex digit.
func id(digit string) string { return "0x" + strings.Repeat(digit, 64) }
