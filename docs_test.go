package gatewayautomation_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	_ "modernc.org/sqlite"
)

// The README shows a gateway that is compiled and tested: examples/gateway.
func TestREADME_ShowsTheGatewayThatIsTested(t *testing.T) {
	_, program, found := strings.Cut(read(t, "examples/gateway/main.go"), "package main\n")
	if !found {
		t.Fatal("examples/gateway/main.go has no package clause")
	}
	if !strings.Contains(read(t, "README.md"), "```go\npackage main\n"+program+"```\n") {
		t.Error("README.md does not show examples/gateway/main.go from its package clause on")
	}
}

// Links between the pages lead to files that exist.
func TestDocs_LinkToFilesThatExist(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, file := range files(t, ".md") {
		for _, m := range link.FindAllStringSubmatch(read(t, file), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", file, m[1], err)
			}
		}
	}
}

// The contributors' pages name files and packages by their paths.
func TestDocs_NameFilesThatExist(t *testing.T) {
	path := regexp.MustCompile("`((?:…|[a-z_]+)(?:/[a-z_.]+)+)`")
	for _, page := range []string{"ARCHITECTURE.md", "CONTRIBUTING.md"} {
		text, dir, found := read(t, page), "", 0
		for _, m := range path.FindAllStringSubmatch(text, -1) {
			name := m[1]
			if rest, ok := strings.CutPrefix(name, "…/"); ok { // in the folder of the previous path
				name = dir + "/" + rest
			}
			if first, _, _ := strings.Cut(name, "/"); first == "testing" { // of the standard library
				continue
			}
			dir, found = filepath.Dir(name), found+1
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s names %s: %v", page, m[1], err)
			}
		}
		if found < 5 {
			t.Errorf("%s names %d paths, want at least 5: does the pattern still match?", page, found)
		}
	}
}

// floors returns the floor of each package by the table of ARCHITECTURE.md,
// where 0 is the highest.
func floors(t *testing.T) map[string]int {
	t.Helper()
	name, floor, found := regexp.MustCompile("`([^`]+)`"), 0, map[string]int{}
	for line := range strings.Lines(read(t, "ARCHITECTURE.md")) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 { // not a line of this table
			continue
		}
		dir := ""
		for _, m := range name.FindAllStringSubmatch(cells[2], -1) {
			pkg := m[1]
			if rest, ok := strings.CutPrefix(pkg, "…/"); ok { // in the folder of the previous package
				pkg = dir + "/" + rest
			}
			dir, found[pkg] = filepath.Dir(pkg), floor
		}
		floor++
	}
	return found
}

// The table of ARCHITECTURE.md lists every package, and no package imports one of a
// higher floor.
func TestArchitecture_NamesEveryPackage(t *testing.T) {
	floor, imports := floors(t), 0
	for _, file := range files(t, ".go") {
		dir := filepath.Dir(file)
		if strings.HasSuffix(file, "_test.go") || dir == "." || strings.HasPrefix(dir, "e2e") || strings.HasPrefix(dir, "bench") || strings.HasPrefix(dir, "testdata") {
			continue
		}
		own, ok := floor[dir]
		if !ok {
			t.Errorf("the table of ARCHITECTURE.md does not list the package %s", dir)
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			pkg, ok := strings.CutPrefix(strings.Trim(spec.Path.Value, `"`), modulePath+"/")
			if ok && floor[pkg] < own {
				t.Errorf("%s imports %s, which is on a higher floor of ARCHITECTURE.md", file, pkg)
			} else if ok {
				imports++
			}
		}
	}
	if imports < 100 {
		t.Errorf("%d imports were checked, want at least 100: are all packages found?", imports)
	}
}

func TestDecisions_AreAllListed(t *testing.T) {
	index := read(t, "docs/decisions/README.md")
	for _, file := range files(t, ".md") {
		if name := filepath.Base(file); filepath.Dir(file) == "docs/decisions" && name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("docs/decisions/README.md does not list %s", name)
		}
	}
}

// mayCallSleep has the files that may contain a call of time.Sleep outside a synctest
// bubble, and why.
var mayCallSleep = map[string]string{
	"docs_test.go":               "its text has the function's name",
	"flags/listen/bench_test.go": "its benchmark polls for changes that a real database announces",
}

// The linter allows tests to sleep, because a test in a synctest bubble does so to
// let time pass. This test forbids it outside such bubbles.
func TestTests_SleepOnlyInSynctest(t *testing.T) {
	for _, file := range files(t, "_test.go") {
		text := read(t, file)
		if mayCallSleep[file] == "" && strings.Contains(text, "time.Sleep(") && !strings.Contains(text, `"testing/synctest"`) {
			t.Errorf("%s sleeps and does not use testing/synctest", file)
		}
	}
}

// unclear has words that only this project used, or that need a second reading, and
// what to write instead.
var unclear = map[string]string{
	"tells whether": "reports whether", "goes on": "continues", "went on": "continued", "gone on": "continued", "anew": "again",
	"beside": "besides, next to", "mend": "fix", "mends": "fixes", "mended": "fixed", "hears": "receives", "heard": "received",
	"trouble": "error, failure", "troubles": "errors", "takes for": "treats as", "took for": "treated as",
	"lab": "harness", "newLab": "newHarness", "pglab": "pgtest", "witness": "Outcome", "testify": "record", "census": "Stats", "Census": "Stats",
	"giveBack": "release", "brake": "limit, breaker", "braking": "limited", "clipped": "truncated", "nudge": "trigger", "Nudge": "Trigger",
	"Tend": "Maintain", "handIn": "flush", "TookBack": "RolledBackByPolicy", "namedRide": "clientSession", "ride": "request", "rides": "requests",
	"unsettled": "unknown", "tidyList": "normalize", "keeper": "leaseManager", "hearts": "heartbeats", "leftOver": "pendingRelease",
}

// sentence matches the name of a test that is one long sentence without an underscore.
var sentence = regexp.MustCompile(`(?m)^func Test(([A-Z][a-z0-9]+){4,}|I[tf][A-Z]\w*)\(`)

func TestWords_NeedNoGlossary(t *testing.T) {
	notLetter := func(r rune) bool { return !unicode.IsLetter(r) }
	for _, suffix := range []string{".go", ".md", ".sql", ".yml", ".html"} {
		for _, file := range files(t, suffix) {
			if file == "docs_test.go" || file == "CHANGELOG.md" { // they list the words, and old names
				continue
			}
			text := read(t, file)
			for i, line := range strings.Split(text, "\n") {
				previous := ""
				for word := range strings.FieldsFuncSeq(line, notLetter) {
					for _, found := range []string{word, previous + " " + word} {
						if instead := unclear[found]; instead != "" {
							t.Errorf("%s:%d: write %q instead of %q", file, i+1, instead, found)
						}
					}
					previous = word
				}
			}
			if name := sentence.FindString(text); name != "" && suffix == ".go" {
				t.Errorf("%s: the test %s… needs a name such as TestThing_DoesWhat", file, name)
			}
		}
	}
}

// files returns the paths of the repository's files with a suffix, without hidden
// folders and node_modules.
func files(t *testing.T, suffix string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && path != "." && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, suffix) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files with the suffix %s, error %v; want at least one", len(paths), suffix, err)
	}
	return paths
}

// read returns a file's text, with line feeds as line ends.
func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
}
