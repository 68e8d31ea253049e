package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// noSuchCommand is the Args of a command that has subcommands. Cobra calls it with
// arguments only if the first one is not the name of a subcommand.
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

// noSuchFlag adds the flags with similar names to an error about an unknown flag.
func noSuchFlag(cmd *cobra.Command, err error) error {
	_, name, ok := strings.Cut(err.Error(), "unknown flag: --")
	if !ok {
		return err
	}
	// Cobra can only suggest commands, so each flag becomes a command.
	names := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		names.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	if list := names.SuggestionsFor(name); len(list) > 0 {
		return fmt.Errorf("%w; did you mean --%s?", err, strings.Join(list, " or --"))
	}
	return err
}
