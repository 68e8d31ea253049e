package automation_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/environment.md")

// documented is a variable as config.go describes it.
type documented struct{ name, fallback, bounds, meaning string }

// documentedVariables reads the source, so that the meaning is written once:
// the field's comment.
func documentedVariables(t *testing.T) []documented {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var all []documented
	ast.Inspect(file, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok || field.Tag == nil {
			return true
		}
		text, err := strconv.Unquote(field.Tag.Value)
		if err != nil {
			t.Fatal(err)
		}
		tag := reflect.StructTag(text)
		v := documented{
			name: tag.Get("env"), fallback: tag.Get("envDefault"),
			meaning: strings.Join(strings.Fields(field.Doc.Text()), " "),
		}
		if low, high, ok := strings.Cut(tag.Get("range"), ".."); ok {
			v.bounds = low + " to " + high
		}
		if unit := tag.Get("unit"); unit != "" {
			v.bounds += " " + unit
		}
		if choices := tag.Get("oneof"); choices != "" {
			v.bounds = strings.Join(strings.Fields(choices), ", ")
		}
		all = append(all, v)
		return true
	})
	return all
}

func TestTheDocumentedEnvironmentIsTheRealOne(t *testing.T) {
	const path = "../docs/environment.md"
	var out strings.Builder
	out.WriteString("# Environment\n\nEvery variable that `automation.LoadConfig` reads. An empty one is unset. A bad value ends the start with an\n" +
		"error that names every wrong variable. Durations without a unit in the table are written like `30s`, `5m`, `1h30m`.\n\n" +
		"| variable | default | bounds | meaning |\n|---|---|---|---|\n")
	for _, v := range documentedVariables(t) {
		if v.meaning == "" {
			t.Errorf("%s has no meaning", v.name)
		}
		fallback := "empty"
		if v.fallback != "" {
			fallback = "`" + v.fallback + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", v.name, fallback, v.bounds, v.meaning)
	}
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(out.String(), string(got)); diff != "" {
		t.Errorf("%s has drifted; go test ./automation -run Documented -update writes it anew:\n%s", path, diff)
	}
}
