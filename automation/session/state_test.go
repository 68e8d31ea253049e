package session

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// constantsWithPrefix returns the values of sessionsql's constants whose names begin with prefix,
// sorted and without "".
func constantsWithPrefix(t *testing.T, prefix string) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../internal/sessionsql/state.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			literal, ok := spec.Values[i].(*ast.BasicLit)
			if !ok || !strings.HasPrefix(name.Name, prefix) {
				continue
			}
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			if value != "" {
				values = append(values, value)
			}
		}
		return true
	})
	slices.Sort(values)
	return values
}

// codeWords returns the words in backticks from column n, counted from 0, of the table under a
// heading of the page. They are sorted, without duplicates.
func codeWords(t *testing.T, page, heading string, n int) (words []string) {
	t.Helper()
	_, rest, found := strings.Cut(page, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/session-states.md has no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	for line := range strings.Lines(rest) {
		cells := strings.Split(line, "|")
		if len(cells) <= n+1 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[n+1], -1) {
			words = append(words, m[1])
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

func TestStatesPage_IsTrue(t *testing.T) {
	text, err := os.ReadFile("../../docs/session-states.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	states := constantsWithPrefix(t, "State")
	for _, c := range []struct {
		what      string
		got, want []string
	}{
		{"the states", codeWords(t, page, "States", 0), states},
		{"the targets of transitions", codeWords(t, page, "Transitions", 2), states},
		{"the reasons", codeWords(t, page, "Transitions", 3), constantsWithPrefix(t, "Reason")},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: the page has %v, the code %v", c.what, c.got, c.want)
		}
	}
	var migrations strings.Builder
	for _, dir := range []string{"postgres", "sqlite"} {
		files, err := os.ReadDir("../schema/" + dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			sql, err := os.ReadFile("../schema/" + dir + "/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			migrations.Write(sql)
		}
	}
	for _, index := range codeWords(t, page, "States", 3) {
		if !strings.Contains(migrations.String(), "CREATE INDEX IF NOT EXISTS "+index+" ") && !strings.Contains(migrations.String(), "CREATE UNIQUE INDEX IF NOT EXISTS "+index+" ") {
			t.Errorf("the page names the index %s, which no migration creates", index)
		}
	}
	for _, state := range states {
		if !strings.Contains(migrations.String(), "'"+state+"'") {
			t.Errorf("no migration mentions the state %s", state)
		}
	}
	for _, prefix := range []string{"Purpose", "Wallet"} {
		for _, word := range constantsWithPrefix(t, prefix) {
			if !strings.Contains(page, "`"+word+"`") {
				t.Errorf("the page does not mention %s", word)
			}
		}
	}
}

func TestStatesPage_HasEveryTransitionOfTheStatements(t *testing.T) {
	text, err := os.ReadFile("../../docs/session-states.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Transitions\n")
	table, _, _ = strings.Cut(table, "\n## ")
	documented := map[string]bool{}
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) > 4 {
			from, to := strings.Trim(cells[1], " `"), strings.Trim(cells[3], " `")
			documented[from+" "+to] = true
		}
	}
	for _, allowed := range []string{ // grouped by the store's functions
		// complete
		stateOpening + " " + stateOpen, stateUnknown + " " + stateOpen, stateLost + " " + stateOpen, stateFailed + " " + stateOpen, stateOpening + " " + stateEnding,
		// fail, markUnknown, takeUnresolved, requeue
		stateOpening + " " + stateFailed, stateOpening + " " + stateUnknown, stateUnknown + " " + stateLost, stateLost + " " + stateFailed,
		// retire, end, eraseUser, takeDue, closed, notClosed
		stateOpen + " " + stateEnding, stateEnding + " " + stateClosed, stateEnding + " " + stateEnding,
	} {
		if !documented[allowed] {
			t.Errorf("the page lacks the transition %s", allowed)
		}
	}
}
