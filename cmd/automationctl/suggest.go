package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noSuchCommand is the Args of a command that has subcommands: what is named is
// none of them.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := ""
	if list := cmd.SuggestionsFor(args[0]); len(list) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", strings.Join(list, " or "))
	}
	return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
}

// noSuchFlag adds the nearest flags to an error of the command line.
func noSuchFlag(cmd *cobra.Command, err error) error {
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return err
	}
	// Cobra compares commands; the flags' names stand in for them.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	if list := names.SuggestionsFor(name); len(list) > 0 {
		return fmt.Errorf("%w; did you mean --%s?", err, strings.Join(list, " or --"))
	}
	return err
}
