package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

var update = flag.Bool("update", false, "write testdata/*.txt and docs/automationctl.md")

// databases are the databases on which every transcript runs.
var databases = map[string]func(*testing.T) string{
	"postgres": func(t *testing.T) string { return pgtest.Database(t) },
	"sqlite":   func(*testing.T) string { return "sqlite:a.db" },
}

// shell runs command lines in process.
type shell struct {
	t   *testing.T
	env map[string]string
}

// result is the output and the exit code of a command line.
type result struct {
	out, errs string
	code      int
}

func (s shell) run(args ...string) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	code := run(s.t.Context(), args, func(name string) string { return s.env[name] }, strings.NewReader(""), &out, &errs)
	return result{out.String(), errs.String(), code}
}

// masks replace text that differs between runs. Times in tables keep their length.
var masks = []struct {
	pattern     *regexp.Regexp
	replacement string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "2026-00-00 00:00:00Z"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "2026-00-00T00:00:00Z"},
	{regexp.MustCompile(`"took_seconds": [\d.e-]+`), `"took_seconds": 0`},
	{regexp.MustCompile(`("(?:watched_seconds)": )[\d.]+`), "${1}0"},
	{regexp.MustCompile(`observed( +)\d+s`), "observed${1}0s"},
}

func mask(text string) string {
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.replacement)
	}
	return text
}

// transcript returns what a terminal shows; a line of standard error begins with "! ".
func (r result) transcript() string {
	var b strings.Builder
	b.WriteString(mask(r.out))
	for line := range strings.Lines(mask(r.errs)) {
		b.WriteString("! " + line)
	}
	if r.code != 0 {
		fmt.Fprintf(&b, "[exit %d]\n", r.code)
	}
	return b.String()
}

// runTranscript runs the command lines of a transcript, which begin with $, and
// compares their output. A line that begins with # is a comment.
func runTranscript(t *testing.T, file string, s shell) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "$ automationctl")
		switch {
		case ok:
			got.WriteString(line)
			got.WriteString(s.run(splitLine(strings.TrimSpace(command))...).transcript())
			got.WriteString("\n")
		case strings.HasPrefix(line, "#"):
			got.WriteString(line)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got.String()); diff != "" {
		t.Errorf("%s (-want +got); if the new output is right, run: go test ./cmd/automationctl -update\n%s", file, diff)
	}
}

// argument matches an argument of a command line, which may be in single quotes.
var argument = regexp.MustCompile(`'[^']*'|\S+`)

func splitLine(line string) []string {
	list := argument.FindAllString(line, -1)
	for i, w := range list {
		list[i] = strings.Trim(w, "'")
	}
	return list
}
