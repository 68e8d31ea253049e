package mapping_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// largeMapping returns a file of 10,000 names and its table.
func largeMapping(tb testing.TB) (data []byte, table *mapping.Table) {
	tb.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "{\n  %q: %q", "default", id("a"))
	for i := range 10_000 {
		fmt.Fprintf(&b, ",\n  %q: \"0x%064x\"", fmt.Sprintf("Vendor %d/Model-%04d Instruct", i%97, i), i)
	}
	b.WriteString("\n}\n")
	table, err := mapping.Parse([]byte(b.String()))
	if err != nil {
		tb.Fatal(err)
	}
	return []byte(b.String()), table
}

var hits = []struct{ name, asked string }{
	{"exact", "Vendor 90/Model-4067 Instruct"},
	{"other case", "VENDOR 90/mODEL-4067 instruct"},
	{"alias", "vendor-90/model-4067-instruct"},
	{"slug", "Vendor-90/Model-4067 Instruct"},
	{"id", fmt.Sprintf("0x%064X", 4067)},
	{"beyond ASCII", "Vendor 90/Model-4067 In\u017Ftruct"},
	{"default", ""},
}

func TestTable_ResolveOfAHitDoesNotAllocate(t *testing.T) {
	_, table := largeMapping(t)
	for _, hit := range hits {
		allocs := testing.AllocsPerRun(100, func() {
			if _, err := table.Resolve(hit.asked, mapping.LLM); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 {
			t.Errorf("Resolve of %s (%q) allocates %v times, want 0", hit.name, hit.asked, allocs)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	_, table := largeMapping(b)
	bare := make(map[string]mapping.Model) // the lower bound: a look-up in a map
	for _, m := range table.Models() {
		bare[m.Name] = m
	}
	b.Run("bare map", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if bare[hits[0].asked].ID == "" {
				b.Fatal("absent")
			}
		}
	})
	b.Run("bare map of lower case", func(b *testing.B) {
		lower := make(map[string]mapping.Model)
		for name, m := range bare {
			lower[strings.ToLower(name)] = m
		}
		b.ReportAllocs()
		for b.Loop() {
			if lower[strings.ToLower(hits[1].asked)].ID == "" {
				b.Fatal("absent")
			}
		}
	})
	for _, hit := range hits {
		b.Run(hit.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Resolve(hit.asked, mapping.LLM); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, asked := range map[string]string{
		"near miss": "Vendor 90/Model-4067 Instrukt-turbo",
		"far miss":  "zzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
		"hostile":   strings.Repeat("x", 10<<20), // 10 MiB
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := table.Resolve(asked, mapping.LLM); err == nil {
					b.Fatal("found")
				}
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	data, _ := largeMapping(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := mapping.Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
