package automation_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

var update = flag.Bool("update", false, "write docs/environment.md")

// documented is a variable as automation.Variables and the comments of Config describe it.
type documented struct{ name, fallback, bounds, meaning string }

// documentedVariables takes the meanings from config.go, where each field's comment
// has its variable's name, a colon and the meaning.
func documentedVariables(t *testing.T) []documented {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	meanings := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		if field, ok := n.(*ast.Field); ok && field.Doc != nil {
			name, meaning, _ := strings.Cut(strings.Join(strings.Fields(field.Doc.Text()), " "), ": ")
			if meaning != "" {
				meanings[name] = strings.ToUpper(meaning[:1]) + meaning[1:]
			}
		}
		return true
	})
	var all []documented
	for _, v := range automation.Variables() {
		all = append(all, documented{name: v.Name, fallback: v.Default, bounds: v.Bounds, meaning: meanings[v.Name]})
		delete(meanings, v.Name)
	}
	for name := range meanings {
		t.Errorf("a comment of Config describes %s, which automation.Variables does not list", name)
	}
	return all
}

func TestDocumentedEnvironment_MatchesConfig(t *testing.T) {
	const path = "../docs/environment.md"
	var out strings.Builder
	out.WriteString("# Environment\n\nEvery variable that `automation.LoadConfig` reads. A variable with an empty value counts as unset. `LoadConfig` returns one\n" +
		"error that names every wrong variable. Durations are written like `30s`, `5m`, `1h30m`; a plain number is in seconds.\n\n" +
		"| variable | default | bounds | meaning |\n|---|---|---|---|\n")
	for _, v := range documentedVariables(t) {
		if v.meaning == "" {
			t.Errorf("no comment of Config describes %s", v.name)
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
		t.Errorf("%s is out of date; go test ./automation -run Documented -update writes it (-want +got):\n%s", path, diff)
	}
}
