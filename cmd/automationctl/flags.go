package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) flags() *cobra.Command {
	cmd := &cobra.Command{Use: "flags", Short: "Show and change flags", Args: noSuchCommand, RunE: showHelp,
		Long: `A flag decides who has a feature. Nobody has it while the gateway's
AUTOMATION_FEATURE_ENABLED is false or the flag is not enabled. Otherwise the
enabled users and the percentage of all users have it, but never the disabled
users. The flag of the automation feature is called automation.`}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List all flags", Args: cobra.NoArgs,
			RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
				return a.listFlags(cmd, flags.NewStore(db, flags.StoreOptions{}))
			}),
		},
		&cobra.Command{
			Use: "get NAME", Short: "Show a flag", Args: cobra.ExactArgs(1),
			RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
				f, err := flags.NewStore(db, flags.StoreOptions{}).Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.showFlag(f)
			}),
		},
		a.setFlag(), a.explainFlag(), a.flagEvents())
	return cmd
}

func (a *app) listFlags(cmd *cobra.Command, store *flags.Store) error {
	loaded, err := store.Load(cmd.Context(), nil)
	if err != nil {
		return err
	}
	list := loaded.Flags
	slices.SortFunc(list, func(x, y *flags.Flag) int { return strings.Compare(x.Name, y.Name) })
	if list == nil {
		list = []*flags.Flag{}
	}
	err = a.print(list, func(w io.Writer) {
		row(w, "NAME", "ENABLED", "PERCENT", "LISTED IN", "LISTED OUT", "VERSION", "CHANGED", "BY")
		for _, f := range list {
			row(w, f.Name, formatBool(f.Enabled), f.Percentage, formatCount(int64(f.EnabledUserIDs.Len())), formatCount(int64(f.DisabledUserIDs.Len())), f.Version, formatTime(f.UpdatedAt), f.UpdatedBy)
		}
	})
	for _, bad := range loaded.Bad { // reported after the valid flags were printed
		err = errors.Join(err, bad)
	}
	return err
}

func (a *app) showFlag(f *flags.Flag) error {
	return a.print(f, func(w io.Writer) {
		row(w, "name", f.Name)
		row(w, "enabled", formatBool(f.Enabled))
		row(w, "percentage", f.Percentage.String()+" %")
		row(w, "enabled users", formatIDs(f.EnabledUserIDs))
		row(w, "disabled users", formatIDs(f.DisabledUserIDs))
		row(w, "seed", f.Seed)
		row(w, "notice", f.Notice)
		row(w, "version", f.Version)
		row(w, "changed", formatTime(f.UpdatedAt)+" by "+f.UpdatedBy)
	})
}

// formatIDs formats the first ids of a list.
func formatIDs(s flags.IDs) string {
	const maxIDs = 20
	list := s.List()
	if len(list) <= maxIDs {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %s more; --json prints all", strings.Join(list[:maxIDs], ", "), formatCount(int64(len(list)-maxIDs)))
}

func (a *app) explainFlag() *cobra.Command {
	var masterOff bool
	cmd := &cobra.Command{
		Use: "explain NAME USER", Short: "Explain why a user has a flag or not", Args: cobra.ExactArgs(2),
		Long: `Explain shows all rules in their order. Each gateway has its own master switch,
AUTOMATION_FEATURE_ENABLED, which explain assumes to be on; --master-off assumes
that it is off.`,
		Example: "  automationctl flags explain automation 7",
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			f, err := flags.NewStore(db, flags.StoreOptions{}).Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			e := explanation{flags.Explain(f, args[1], !masterOff), a.gatewaysOf(cmd.Context(), db, f.Name)}
			return a.print(e, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s: user %s is %s, by the rule %s\n", e.Flag, e.User, map[bool]string{true: "in", false: "out"}[e.On], e.Reason)
				if e.Gateways != nil && e.On {
					_, _ = fmt.Fprintf(w, "Effect of the flag: %s.\n", e.Gateways.effect())
				}
				_, _ = fmt.Fprintln(w)
				row(w, " ", "RULE", "FINDING")
				for _, s := range e.Steps {
					row(w, map[bool]string{true: "=>", false: " "}[s.Decides], s.Rule, s.Finding)
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&masterOff, "master-off", false, "assume that the gateway's master switch is off")
	return cmd
}

func (a *app) flagEvents() *cobra.Command {
	var limit int
	var before int64
	cmd := &cobra.Command{
		Use: "events NAME", Short: "Show who changed a flag, when and how", Args: cobra.ExactArgs(1),
		Long: "Events shows the audit of a flag, the newest event first. The audit has all\nchanges, including those made in SQL.",
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			list, err := flagsql.NewAudit(db, sqldb.Options{}).Events(cmd.Context(), args[0], limit, before)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				row(w, "ID", "WHEN", "WHO", "WHAT", "VERSION", "CHANGES")
				for _, e := range list {
					row(w, e.ID, formatTime(e.At.Time), e.By, e.Action, e.Version, formatChanges(e))
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "the maximum number, 1 to 1000")
	cmd.Flags().Int64Var(&before, "before", 0, "only ids below this one, for the next page")
	return cmd
}

// formatChanges formats what an event changed, column by column.
func formatChanges(e flagsql.Event) string {
	before, after := map[string]any{}, map[string]any{}
	if err := errors.Join(json.Unmarshal(e.Before, &before), json.Unmarshal(e.After, &after)); err != nil {
		return truncate(string(e.Before)) + " to " + truncate(string(e.After))
	}
	keys := maps.Clone(before)
	maps.Copy(keys, after)
	var list []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		text := k
		if v, ok := before[k]; ok {
			text += " from " + jsonText(v)
		}
		if v, ok := after[k]; ok {
			text += " to " + jsonText(v)
		}
		list = append(list, text)
	}
	return strings.Join(list, "; ")
}

func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return truncate(string(b))
}

// truncate truncates a text for a table.
func truncate(s string) string {
	const maxRunes = 60
	if r := []rune(s); len(r) > maxRunes {
		return string(r[:maxRunes]) + "…"
	}
	return s
}
