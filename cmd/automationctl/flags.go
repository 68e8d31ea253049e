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
	cmd := &cobra.Command{Use: "flags", Short: "Look at flags and change them", Args: noSuchCommand, RunE: showHelp,
		Long: `Who has a feature: nobody while the gateway's AUTOMATION_FEATURE_ENABLED is
false or the flag is not enabled; otherwise the users listed as enabled, and the
percentage, but never the users listed as disabled. The feature's own flag is
called automation.`}
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
	for _, bad := range loaded.Bad { // one that is broken hides no other
		err = errors.Join(err, bad)
	}
	return err
}

func (a *app) showFlag(f *flags.Flag) error {
	return a.print(f, func(w io.Writer) {
		row(w, "name", f.Name)
		row(w, "enabled", formatBool(f.Enabled))
		row(w, "percentage", f.Percentage.String()+" %")
		row(w, "enabled users", ids(f.EnabledUserIDs))
		row(w, "disabled users", ids(f.DisabledUserIDs))
		row(w, "seed", f.Seed)
		row(w, "notice", f.Notice)
		row(w, "version", f.Version)
		row(w, "changed", formatTime(f.UpdatedAt)+" by "+f.UpdatedBy)
	})
}

// ids formats the first ids of a list.
func ids(s flags.IDs) string {
	const most = 20
	list := s.List()
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %s more; --json has them all", strings.Join(list[:most], ", "), formatCount(int64(len(list)-most)))
}

func (a *app) explainFlag() *cobra.Command {
	var masterOff bool
	cmd := &cobra.Command{
		Use: "explain NAME USER", Short: "Explain why a user has a flag or not", Args: cobra.ExactArgs(2),
		Long: `Explain goes through all rules in their order. The master switch is each
gateway's own, AUTOMATION_FEATURE_ENABLED, and is assumed to be on; --master-off explains
what holds where it is off.`,
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
					_, _ = fmt.Fprintf(w, "Who is in: %s.\n", e.Gateways.effect())
				}
				_, _ = fmt.Fprintln(w)
				row(w, " ", "RULE", "FINDING")
				for _, s := range e.Steps {
					row(w, map[bool]string{true: "=>", false: " "}[s.Decides], s.Rule, s.Finding)
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&masterOff, "master-off", false, "as where the gateway's master switch is off")
	return cmd
}

func (a *app) flagEvents() *cobra.Command {
	var limit int
	var before int64
	cmd := &cobra.Command{
		Use: "events NAME", Short: "Show who changed a flag, when and how", Args: cobra.ExactArgs(1),
		Long: "Events shows the audit of a flag, the newest first: every change, by whatever way it came.",
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			list, err := flagsql.NewAudit(db, sqldb.Options{}).Events(cmd.Context(), args[0], limit, before)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				row(w, "ID", "WHEN", "WHO", "WHAT", "VERSION", "CHANGES")
				for _, e := range list {
					row(w, e.ID, formatTime(e.At.Time), e.By, e.Action, e.Version, changes(e))
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "how many at most, 1 to 1000")
	cmd.Flags().Int64Var(&before, "before", 0, "only those with an id below this one, to see more")
	return cmd
}

// changes formats what an event changed, column by column.
func changes(e flagsql.Event) string {
	before, after := map[string]any{}, map[string]any{}
	if err := errors.Join(json.Unmarshal(e.Before, &before), json.Unmarshal(e.After, &after)); err != nil {
		return short(string(e.Before)) + " to " + short(string(e.After))
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
	return short(string(b))
}

// short truncates a text for a table.
func short(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}
