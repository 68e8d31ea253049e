package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The test runs the built command, as scripts do.
func TestBinary_ExitCodes(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the command")
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "automationctl")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	db := "sqlite:" + filepath.Join(dir, "a.db")
	for _, step := range []struct {
		line     string
		database string
		code     int
	}{
		{"flags list", "", 2},
		{"flags list", db, 3},
		{"migrate up", db, 0},
		{"flags get automation", db, 0},
		{"flags get other", db, 3},
		{"flags set automation --percentage 10 --if-version 7", db, 4},
		{"rollout approve automation", db, 3},
		{"mapping check main.go", db, 1},
		{"flags list", "postgres://u:hunter2@127.0.0.1:1/x", 5},
		{"completion bash", "", 0},
		{"--help", "", 0},
		{"help cleanup", "", 0},
		{"cleanup", db, 2},
	} {
		cmd := exec.CommandContext(t.Context(), bin, strings.Fields(step.line)...)
		cmd.Env = append(os.Environ(), "DATABASE_URL="+step.database)
		out, err := cmd.CombinedOutput()
		code := 0
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			code, err = e.ExitCode(), nil
		}
		if err != nil || code != step.code {
			t.Errorf("%s: exit %d, error %v; want exit %d\n%s", step.line, code, err, step.code, out)
		}
		if strings.Contains(string(out), "hunter2") {
			t.Errorf("%s prints the password:\n%s", step.line, out)
		}
	}
	if out, err := exec.CommandContext(t.Context(), bin, "flags", "events", "automation", "--database", db).CombinedOutput(); err != nil || !strings.Contains(string(out), "migration") {
		t.Errorf("flags events with --database: error %v, want the event of the migration in\n%s", err, out)
	}
}
