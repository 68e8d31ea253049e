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

// databases are those that every transcript runs on.
var databases = map[string]func(*testing.T) string{
	"postgres": func(t *testing.T) string { return pgtest.Database(t) },
	"sqlite":   func(*testing.T) string { return "sqlite:a.db" },
}

// shell runs command lines in process.
type shell struct {
	t   *testing.T
	env map[string]string
}

// result is what a command line did.
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

// What differs from run to run, masked by as many characters.
var masks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "2026-00-00 00:00:00Z"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "2026-00-00T00:00:00Z"},
	{regexp.MustCompile(`"took_seconds": [\d.e-]+`), `"took_seconds": 0`},
	{regexp.MustCompile(`("(?:watched_seconds)": )[\d.]+`), "${1}0"},
	{regexp.MustCompile(`watched \d+s`), "watched 0s"},
	{regexp.MustCompile(`watched( +)\d+s`), "watched${1}0s"},
}

func masked(text string) string {
	for _, m := range masks {
		text = m.what.ReplaceAllString(text, m.by)
	}
	return text
}

// transcript is what a terminal shows.
func (r result) transcript() string {
	var b strings.Builder
	b.WriteString(masked(r.out))
	for line := range strings.Lines(masked(r.errs)) {
		b.WriteString("! " + line)
	}
	if r.code != 0 {
		fmt.Fprintf(&b, "[exit %d]\n", r.code)
	}
	return b.String()
}

// play runs the command lines of a transcript, those that begin with $, and
// compares what they say. A line that begins with # is a comment.
func play(t *testing.T, file string, s shell) {
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
			got.WriteString(s.run(split(strings.TrimSpace(command))...).transcript())
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
		t.Errorf("%s (-want +got); where it is right: go test ./cmd/automationctl -update\n%s", file, diff)
	}
}

// words are as a shell splits them, with single quotes.
var words = regexp.MustCompile(`'[^']*'|\S+`)

func split(line string) []string {
	list := words.FindAllString(line, -1)
	for i, w := range list {
		list[i] = strings.Trim(w, "'")
	}
	return list
}
