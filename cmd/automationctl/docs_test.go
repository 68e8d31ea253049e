package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const docs = "../../docs/automationctl.md"

// The document is generated from the command's help.
func TestDocs_MatchTheHelp(t *testing.T) {
	var b strings.Builder
	b.WriteString("# automationctl\n\nGenerated from the command's help by `go test ./cmd/automationctl -run Docs -update`; do not edit it.\n")
	describe(&b, (&app{getenv: func(string) string { return "" }}).root())
	if *update {
		if err := os.MkdirAll(filepath.Dir(docs), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(docs, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(docs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("%s is out of date; run: go test ./cmd/automationctl -run Docs -update\n%s", docs, diff)
	}
}

// describe writes the help of a command and of its subcommands.
func describe(b *strings.Builder, cmd *cobra.Command) {
	if cmd.HasParent() {
		fmt.Fprintf(b, "\n## %s\n\n%s.\n", cmd.CommandPath(), cmd.Short)
	}
	if cmd.Long != "" {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", cmd.Long)
	}
	if cmd.HasParent() && !cmd.HasSubCommands() {
		fmt.Fprintf(b, "\n```text\n%s\n", cmd.UseLine())
		if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(b, "\n%s", flags)
		}
		b.WriteString("```\n")
	}
	if cmd.Example != "" {
		fmt.Fprintf(b, "\nFor example:\n\n```sh\n%s\n```\n", undent(cmd.Example))
	}
	if !cmd.HasParent() {
		fmt.Fprintf(b, "\nFor every command:\n\n```text\n%s```\n\nCompletion for the shell: `automationctl completion bash`, or zsh, fish, powershell.\n", cmd.PersistentFlags().FlagUsages())
	}
	for _, c := range cmd.Commands() {
		describe(b, c)
	}
}

// undent removes two spaces at the start of each line.
func undent(text string) string {
	return strings.ReplaceAll("\n"+text, "\n  ", "\n")[1:]
}
