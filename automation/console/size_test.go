package console_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
)

// The limit keeps the console small enough for a maintainer to read all of it.
func TestConsole_StaysSmall(t *testing.T) {
	lines := 0
	if err := fs.WalkDir(os.DirFS("."), ".", func(name string, _ fs.DirEntry, err error) error {
		switch path.Ext(name) {
		case ".go", ".html", ".css", ".js":
		default:
			return err
		}
		if strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := os.ReadFile(name)
		lines += bytes.Count(text, []byte("\n"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const limit = 3000
	t.Logf("%d lines", lines)
	if lines == 0 || lines >= limit {
		t.Errorf("%d lines of Go, HTML, CSS and JavaScript, want fewer than %d", lines, limit)
	}
}

// A gateway that does not import the console links nothing of it.
func TestConsole_IsLinkedByItsImportersAlone(t *testing.T) {
	const module = "github.com/MorpheusAIs/gateway-automation"
	list := func(packages ...string) map[string]bool {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, packages...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list: %v\n%s", err, &stderr)
		}
		linked := map[string]bool{}
		for _, name := range strings.Fields(string(out)) {
			linked[name] = true
		}
		return linked
	}
	without := list(module+"/automation", module+"/automation/metrics", module+"/examples/gateway", module+"/cmd/automationctl")
	with := list(module + "/automation/console")
	for _, name := range []string{module + "/automation/console", "html/template"} {
		if without[name] {
			t.Errorf("%s is linked without the console", name)
		}
		if !with[name] {
			t.Errorf("the console does not link %s: this test looks for the wrong name", name)
		}
	}
}
