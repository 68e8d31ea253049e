package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// change holds the command-line flags of "flags set".
type change struct {
	enabled                        bool
	percentage, seed, notice       string
	in, out                        string // the whole lists of enabled and disabled users
	addIn, addOut, dropIn, dropOut []string
	version                        int64
}

func (a *app) setFlag() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Change a flag", Args: c.args,
		Long: `Set changes the given properties and keeps the others. The audit records the
change with the name of --actor. A higher percentage only adds users.

A list of users is a JSON list, or ids separated by commas, or @FILE with either.`,
		Example: `  automationctl flags set automation --enabled-users 1,2,3     # internal users
  automationctl flags set automation --percentage 10
  automationctl flags set automation --percentage 12.5 --if-version 4
  automationctl flags set automation --add-disabled-user 7
  automationctl flags set automation --enabled=false --notice "Automation is paused."`,
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			store := flags.NewStore(db, flags.StoreOptions{})
			ch, err := c.read(cmd)
			if err != nil {
				return err
			}
			version := c.version
			if len(c.addIn)+len(c.addOut)+len(c.dropIn)+len(c.dropOut) > 0 {
				f, err := store.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				ch.EnabledUserIDs = editList(ch.EnabledUserIDs, f.EnabledUserIDs, c.addIn, c.dropIn)
				ch.DisabledUserIDs = editList(ch.DisabledUserIDs, f.DisabledUserIDs, c.addOut, c.dropOut)
				if version == 0 {
					version = f.Version // so that no concurrent change of the lists is lost
				}
			}
			f, err := store.Update(cmd.Context(), args[0], ch, a.actorName(), version)
			if err != nil {
				return err
			}
			a.printRolloutEffect(cmd, db, f.Name)
			return a.showFlag(f)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&c.enabled, "enabled", false, "whether anybody has the feature; false switches it off for all")
	f.StringVar(&c.percentage, "percentage", "", "percentage of the users, 0 to 100 with at most two decimals")
	f.StringVar(&c.in, "enabled-users", "", "the list of users who always have the feature")
	f.StringVar(&c.out, "disabled-users", "", "the list of users who never have the feature")
	f.StringArrayVar(&c.addIn, "add-enabled-user", nil, "add a user to the enabled users; can be repeated")
	f.StringArrayVar(&c.dropIn, "remove-enabled-user", nil, "remove a user from the enabled users; can be repeated")
	f.StringArrayVar(&c.addOut, "add-disabled-user", nil, "add a user to the disabled users; can be repeated")
	f.StringArrayVar(&c.dropOut, "remove-disabled-user", nil, "remove a user from the disabled users; can be repeated")
	f.StringVar(&c.seed, "seed", "", "seed of the draw of the percentage; a new seed draws other users")
	f.StringVar(&c.notice, "notice", "", "a message to the users")
	f.Int64Var(&c.version, "if-version", 0, "change the flag only if it is still at this version")
	return cmd
}

// args accepts --enabled false, with a space, as --enabled=false. Otherwise cobra would
// read it as --enabled, which switches the feature on instead of off.
func (c *change) args(cmd *cobra.Command, args []string) error {
	if len(args) == 2 && cmd.Flags().Changed("enabled") {
		if enabled, err := strconv.ParseBool(args[1]); err == nil {
			c.enabled = enabled
			return nil
		}
	}
	return cobra.ExactArgs(1)(cmd, args)
}

// read returns the change that the command line asks for.
func (c *change) read(cmd *cobra.Command) (flags.Change, error) {
	var ch flags.Change
	var errs []error
	isSet := func(name string) bool { return cmd.Flags().Changed(name) }
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", name, err))
		}
	}
	list := func(name, text string) *flags.IDs {
		if !isSet(name + "-users") {
			return nil
		}
		if isSet("add-"+name+"-user") || isSet("remove-"+name+"-user") {
			check(name+"-users", fmt.Errorf("replaces the whole list; do not combine it with --add-%s-user or --remove-%s-user", name, name))
		}
		ids, err := parseIDs(text)
		check(name+"-users", err)
		return &ids
	}
	if isSet("enabled") {
		ch.Enabled = &c.enabled
	}
	if isSet("percentage") {
		p, err := flagsql.ParsePercentage(strings.TrimSuffix(c.percentage, "%"))
		ch.Percentage = new(flags.Percentage(p))
		check("percentage", err)
	}
	ch.EnabledUserIDs, ch.DisabledUserIDs = list("enabled", c.in), list("disabled", c.out)
	if isSet("seed") {
		ch.Seed = &c.seed
	}
	if isSet("notice") {
		ch.Notice = &c.notice
	}
	if err := errors.Join(append(errs, ch.Validate())...); err != nil {
		return ch, usage(err)
	}
	if ch == (flags.Change{}) && len(c.addIn)+len(c.addOut)+len(c.dropIn)+len(c.dropOut) == 0 {
		return ch, usagef("nothing to change: give a property such as --percentage 10; see automationctl flags set --help")
	}
	return ch, nil
}

// parseIDs reads a list of users: JSON, commas, lines, or @FILE.
func parseIDs(text string) (flags.IDs, error) {
	if path, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(path) //nolint:gosec // the operator's own path
		if err != nil {
			return flags.IDs{}, err
		}
		text = string(b)
	}
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "[") {
		var ids flags.IDs
		err := ids.UnmarshalJSON([]byte(text))
		return ids, err
	}
	var list []string
	for id := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		id = strings.TrimSpace(id)
		if strings.ContainsFunc(id, unicode.IsSpace) {
			return flags.IDs{}, fmt.Errorf("%q contains a space: separate ids with commas, or use a JSON list", id)
		}
		if id != "" {
			list = append(list, id)
		}
	}
	return flags.NewIDs(list...), nil
}

// editList returns the current list with users added and removed. If the command line
// gives the whole list, or no user to add or remove, it returns whole.
func editList(whole *flags.IDs, current flags.IDs, add, drop []string) *flags.IDs {
	if whole != nil || len(add)+len(drop) == 0 {
		return whole
	}
	list := slices.DeleteFunc(append(current.List(), add...), func(id string) bool { return slices.Contains(drop, id) })
	return new(flags.NewIDs(list...))
}
