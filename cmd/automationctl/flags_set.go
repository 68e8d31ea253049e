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

// change has the flags of the command flags set.
type change struct {
	enabled                        bool
	percentage, seed, notice       string
	in, out                        string // whole lists
	addIn, addOut, dropIn, dropOut []string
	version                        int64
}

func (a *app) setFlag() *cobra.Command {
	var c change
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Change a flag", Args: c.args,
		Long: `Set changes what is named and leaves the rest. The change is in the audit under
the name of --actor. Raising the percentage only adds users.

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
				ch.EnabledUserIDs = editedList(ch.EnabledUserIDs, f.EnabledUserIDs, c.addIn, c.dropIn)
				ch.DisabledUserIDs = editedList(ch.DisabledUserIDs, f.DisabledUserIDs, c.addOut, c.dropOut)
				if version == 0 {
					version = f.Version // nobody else's change of a list is lost
				}
			}
			f, err := store.Update(cmd.Context(), args[0], ch, a.actorName(), version)
			if err != nil {
				return err
			}
			a.noteRollout(cmd, db, f.Name)
			return a.showFlag(f)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&c.enabled, "enabled", false, "whether anybody has it at all; false is the way back")
	f.StringVar(&c.percentage, "percentage", "", "of the users, 0 to 100 with at most two decimals")
	f.StringVar(&c.in, "enabled-users", "", "all users who have it whatever the percentage")
	f.StringVar(&c.out, "disabled-users", "", "all users who never have it")
	f.StringArrayVar(&c.addIn, "add-enabled-user", nil, "one more user; can be repeated, as the next three")
	f.StringArrayVar(&c.dropIn, "remove-enabled-user", nil, "one user less")
	f.StringArrayVar(&c.addOut, "add-disabled-user", nil, "one more user")
	f.StringArrayVar(&c.dropOut, "remove-disabled-user", nil, "one user less")
	f.StringVar(&c.seed, "seed", "", "draws the cohort; a new seed draws new users")
	f.StringVar(&c.notice, "notice", "", "the operators' word to the users")
	f.Int64Var(&c.version, "if-version", 0, "only if the flag is still at this version")
	return cmd
}

// args takes --enabled false, with a space, for --enabled=false: a mistake here
// would switch the feature on where somebody wants it off.
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
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", name, err))
		}
	}
	list := func(name, text string) *flags.IDs {
		if !given(name + "-users") {
			return nil
		}
		if given("add-"+name+"-user") || given("remove-"+name+"-user") {
			check(name+"-users", errors.New("it is the whole list, so add nobody to it and remove nobody"))
		}
		ids, err := parseIDs(text)
		check(name+"-users", err)
		return &ids
	}
	if given("enabled") {
		ch.Enabled = &c.enabled
	}
	if given("percentage") {
		p, err := flagsql.ParsePercentage(strings.TrimSuffix(c.percentage, "%"))
		ch.Percentage = new(flags.Percentage(p))
		check("percentage", err)
	}
	ch.EnabledUserIDs, ch.DisabledUserIDs = list("enabled", c.in), list("disabled", c.out)
	if given("seed") {
		ch.Seed = &c.seed
	}
	if given("notice") {
		ch.Notice = &c.notice
	}
	if err := errors.Join(append(errs, ch.Validate())...); err != nil {
		return ch, usage(err)
	}
	if ch == (flags.Change{}) && len(c.addIn)+len(c.addOut)+len(c.dropIn)+len(c.dropOut) == 0 {
		return ch, usagef("nothing to change: name what, such as --percentage 10; automationctl flags set --help lists all")
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
			return flags.IDs{}, fmt.Errorf("%q has a space in it: separate ids by commas, or write a JSON list", id)
		}
		if id != "" {
			list = append(list, id)
		}
	}
	return flags.NewIDs(list...), nil
}

// editedList returns the list with users added and removed.
func editedList(whole *flags.IDs, now flags.IDs, add, drop []string) *flags.IDs {
	if whole != nil || len(add)+len(drop) == 0 {
		return whole
	}
	list := slices.DeleteFunc(append(now.List(), add...), func(id string) bool { return slices.Contains(drop, id) })
	return new(flags.NewIDs(list...))
}
