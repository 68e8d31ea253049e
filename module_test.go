package gatewayautomation_test

import (
	"bytes"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/MorpheusAIs/gateway-automation"

// hostPackages are the packages that a gateway's program imports. Packages for its
// tests, automationtest and proxyroutertest, do not count.
var hostPackages = []string{
	"automation", "automation/console", "automation/metrics", "automation/outcome", "automation/proxyrouter", "automation/schema", "automation/session",
	"flags", "flags/listen", "flags/openfeature", "flags/rollout", "mapping", "pgpool", "settings",
}

// maxExported bounds how many exported functions, types, constants, variables
// and methods a gateway's developer can meet. Raise it only for something that
// a host needs and cannot do without.
const maxExported = 389

func TestExportedAPI_StaysSmall(t *testing.T) {
	total := 0
	for _, pkg := range hostPackages {
		n := countExported(t, pkg)
		t.Logf("%4d %s", n, pkg)
		total += n
	}
	if total > maxExported {
		t.Errorf("the packages for hosts export %d identifiers, want at most %d", total, maxExported)
	}
}

// countExported returns the number of a package's exported identifiers.
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
	countValues := func(list []*doc.Value) {
		for _, v := range list {
			n += len(slices.DeleteFunc(v.Names, func(name string) bool { return !token.IsExported(name) }))
		}
	}
	countValues(pkg.Consts)
	countValues(pkg.Vars)
	n += len(pkg.Funcs)
	for _, typ := range pkg.Types {
		countValues(typ.Consts)
		countValues(typ.Vars)
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
		t.Fatalf("the folder %s has no Go files", dir)
	}
	return paths
}

func TestDependencies_AreFew(t *testing.T) {
	for _, c := range []struct {
		pkg     string
		allowed []string // modules that it may link; nil: all except the heavy ones
	}{
		{"flags", []string{"github.com/jmoiron/sqlx"}},
		{"settings", []string{"github.com/jmoiron/sqlx"}},
		{"mapping", []string{}},
		{"automation/outcome", []string{}},
		{"automation/session", []string{"github.com/jmoiron/sqlx"}},
		{"pgpool", []string{"github.com/jmoiron/sqlx", "github.com/lib/pq"}},
		{"automation", nil},
	} {
		t.Run(c.pkg, func(t *testing.T) {
			heavy := []string{"github.com/prometheus/client_golang", "modernc.org/sqlite", "github.com/jackc/pgx/v5", "github.com/spf13/cobra", "github.com/lib/pq"}
			for _, module := range linked(t, c.pkg) {
				isAllowed := slices.Contains(c.allowed, module)
				if c.allowed == nil {
					isAllowed = !slices.Contains(heavy, module)
				}
				if !isAllowed {
					t.Errorf("%s links the module %s, which it must not", c.pkg, module)
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

// testdata/outside uses every package for hosts from a module of its own, which cannot
// import internal packages, with the versions that go.mod requires.
func TestOutsideModule_UsesEverythingThatIsExported(t *testing.T) {
	if testing.Short() {
		t.Skip("builds another module with all dependencies")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/outside")); err != nil {
		t.Fatal(err)
	}
	env := initModule(t, dir, "example.com/outside")
	run(t, dir, env, "go", "vet", "./...")
	if out := run(t, dir, env, "go", "test", "-count=1", "-v", "./..."); !strings.Contains(out, "--- PASS: TestAutomation_RunsInAGateway") {
		t.Errorf("the outside module's tests did not run:\n%s", out)
	}
}

// The commands of the README, in an empty folder, build the program that it shows,
// with the version of lib/pq that is tested here.
func TestREADME_BuildsInAnEmptyFolder(t *testing.T) {
	if testing.Short() {
		t.Skip("links a gateway")
	}
	const libpq = "github.com/lib/pq"
	readme, want := read(t, "README.md"), strings.TrimSpace(run(t, ".", nil, "go", "list", "-m", "-f", "{{.Version}}", libpq))
	_, program, found := strings.Cut(readme, "```go\npackage main\n")
	program, _, ended := strings.Cut(program, "```\n")
	if !found || !ended {
		t.Fatal("README.md has no program")
	}
	pins := regexp.MustCompile(`\bgo get .*\b`+regexp.QuoteMeta(libpq)+`@(\S+)`).FindAllStringSubmatch(readme, -1)
	if len(pins) != 1 || pins[0][1] != want {
		t.Fatalf("README.md installs the versions %q of lib/pq, want only %s, which is tested", pins, want)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n"+program), 0o600); err != nil {
		t.Fatal(err)
	}
	env := initModule(t, dir, "example.com/gateway")
	run(t, dir, env, "go", "mod", "edit", "-require="+libpq+"@"+pins[0][1])
	run(t, dir, env, "go", "build", "-o", "gateway", ".")
	if linked := run(t, dir, env, "go", "version", "-m", "gateway"); !strings.Contains(linked, "\tdep\t"+libpq+"\t"+want+"\t") {
		t.Errorf("the gateway does not link lib/pq %s, which is tested; it links\n%s", want, linked)
	}
}

// initModule makes a folder a module that uses this one and requires the same
// modules. It returns the environment for commands in the folder, which are offline.
// `go mod tidy` would not work offline: it needs modules that `go test ./...` does not
// download.
func initModule(t *testing.T, dir, name string) []string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	mod := strings.Replace(read(t, "go.mod"), "module "+modulePath+"\n", "module "+name+"\n", 1) +
		"\nrequire " + modulePath + " v0.0.0\n\nreplace " + modulePath + " => " + root + "\n"
	for file, text := range map[string]string{"go.mod": mod, "go.sum": read(t, "go.sum")} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off", "GOTOOLCHAIN=local")
}

// run runs a command and returns its standard output. A nil env is the process's own.
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
