package gatewayautomation_test

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/MorpheusAIs/gateway-automation"

// hosts are the packages that a gateway's program imports. Those for its tests
// only, automationtest and proxyroutertest, do not count.
var hosts = []string{
	"automation", "automation/console", "automation/metrics", "automation/outcome", "automation/proxyrouter", "automation/schema", "automation/session",
	"flags", "flags/listen", "flags/openfeature", "flags/rollout", "mapping", "pgpool", "settings",
}

// maxExported bounds how many exported functions, types, constants, variables
// and methods a gateway's developer can meet. Raise it only for something that
// a host needs and cannot do without.
const maxExported = 476

func TestExportedAPI_StaysSmall(t *testing.T) {
	total := 0
	for _, pkg := range hosts {
		n := countExported(t, pkg)
		t.Logf("%4d %s", n, pkg)
		total += n
	}
	if total > maxExported {
		t.Errorf("%d exported identifiers, at most %d are allowed", total, maxExported)
	}
}

func countExported(t *testing.T, dir string) (n int) {
	t.Helper()
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, path := range goFiles(t, dir) {
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	pkg, err := doc.NewFromFiles(fset, parsed, modulePath+"/"+dir)
	if err != nil {
		t.Fatal(err)
	}
	values := func(list []*doc.Value) {
		for _, v := range list {
			n += len(slices.DeleteFunc(v.Names, func(name string) bool { return !token.IsExported(name) }))
		}
	}
	values(pkg.Consts)
	values(pkg.Vars)
	n += len(pkg.Funcs)
	for _, typ := range pkg.Types {
		values(typ.Consts)
		values(typ.Vars)
		n += 1 + len(typ.Funcs) + len(typ.Methods)
	}
	return n
}

func goFiles(t *testing.T, dir string) (paths []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		if !strings.HasSuffix(path, "_test.go") {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		t.Fatalf("no package in %s", dir)
	}
	return paths
}

func TestDependencies_AreFew(t *testing.T) {
	for _, c := range []struct {
		pkg  string
		only []string // modules that it may link; nil: all but the heavy ones
	}{
		{"flags", []string{"github.com/jmoiron/sqlx"}},
		{"settings", []string{"github.com/jmoiron/sqlx", "golang.org/x/sync", "github.com/hashicorp/golang-lru/v2"}},
		{"mapping", []string{"golang.org/x/sync"}},
		{"automation/outcome", []string{}},
		{"automation/session", []string{"github.com/jmoiron/sqlx"}},
		{"pgpool", []string{"github.com/jmoiron/sqlx", "github.com/lib/pq"}},
		{"automation", nil},
	} {
		t.Run(c.pkg, func(t *testing.T) {
			heavy := []string{"github.com/prometheus/client_golang", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/spf13/cobra", "github.com/lib/pq"}
			for _, module := range linked(t, c.pkg) {
				if c.only != nil && !slices.Contains(c.only, module) || c.only == nil && slices.Contains(heavy, module) {
					t.Errorf("%s links %s", c.pkg, module)
				}
			}
		})
	}
}

// linked returns the other modules that a program links when it imports pkg.
func linked(t *testing.T, pkg string) []string {
	t.Helper()
	out := run(t, ".", nil, "go", "list", "-deps", "-f", "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}", "./"+pkg)
	modules := strings.Fields(out)
	slices.Sort(modules)
	return slices.Compact(modules)
}

// What the docs call usable is compiled and run in a module of its own, which
// cannot import internal packages, with the versions that go.mod requires.
func TestOutsideModule_UsesEverythingThatIsExported(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another module with all dependencies")
	}
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/outside")); err != nil {
		t.Fatal(err)
	}
	sums := read(t, "go.sum")
	mod := "module example.com/outside\n\ngo 1.26.0\n\nrequire " + modulePath + " v0.0.0\n\nreplace " + modulePath + " => " + root + "\n"
	for name, text := range map[string]string{"go.mod": mod, "go.sum": sums} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), fs.FileMode(0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// Offline: everything is in the module cache, because this module uses it.
	env := append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	run(t, dir, env, "go", "vet", "./...")
	if out := run(t, dir, env, "go", "test", "-count=1", "-v", "./..."); !strings.Contains(out, "--- PASS: TestAutomation_RunsInAGateway") {
		t.Errorf("the outside module's tests did not run:\n%s", out)
	}
	const libpq = "github.com/lib/pq"
	want := strings.TrimSpace(run(t, ".", nil, "go", "list", "-m", libpq))
	if got := strings.TrimSpace(run(t, dir, env, "go", "list", "-m", libpq)); got != want {
		t.Errorf("a gateway that opens its pool with pgpool links %s, tested is %s", got, want)
	}
}

func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String()
}
