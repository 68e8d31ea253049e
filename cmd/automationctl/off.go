package main

import (
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// offCommand returns the command of the kill switch.
func (a *app) offCommand() *cobra.Command {
	var notice string
	cmd := &cobra.Command{
		Use: "off [NAME]", Short: "Switch the feature off for everybody within seconds", Args: cobra.MaximumNArgs(1),
		Long: `Off switches the flag NAME (default automation) off for everybody. The flag keeps
its lists and its percentage for the command on. Running gateways follow within
two seconds. Users read the notice in GET …/status.`,
		Example: `  automationctl off
  automationctl off --notice "Automation is paused until about 18:00 UTC."`,
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			off := false
			ch := flags.Change{Enabled: &off}
			if cmd.Flags().Changed("notice") {
				ch.Notice = &notice
			}
			return a.switchFlag(cmd, db, args, ch)
		}),
	}
	cmd.Flags().StringVar(&notice, "notice", "", "a message to the users; without it the flag keeps its notice")
	return cmd
}

// onCommand returns the command that undoes the kill switch.
func (a *app) onCommand() *cobra.Command {
	return &cobra.Command{
		Use: "on [NAME]", Short: "Switch the feature on again, as it was before off", Args: cobra.MaximumNArgs(1),
		Long: `On switches the flag NAME (default automation) on, with its lists and its
percentage, and removes the notice. To continue a rollout that was paused or
rolled back, use rollout resume or rollout restart.`,
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			on, none := true, ""
			return a.switchFlag(cmd, db, args, flags.Change{Enabled: &on, Notice: &none})
		}),
	}
}

func (a *app) switchFlag(cmd *cobra.Command, db *sqlx.DB, args []string, ch flags.Change) error {
	name := automationFlag
	if len(args) > 0 {
		name = args[0]
	}
	f, err := flags.NewStore(db, flags.StoreOptions{}).Update(cmd.Context(), name, ch, a.actorName(), 0)
	if err != nil {
		return err
	}
	if f.Name == automationFlag {
		a.printReplicas(cmd, db, f.Version)
	}
	a.printRolloutEffect(cmd, db, f.Name)
	return a.showFlag(f)
}

// printRolloutEffect prints how a rollout reacts to a change of its flag by hand.
func (a *app) printRolloutEffect(cmd *cobra.Command, db *sqlx.DB, name string) {
	if effect, err := rollout.NewStore(db).HandEditEffect(cmd.Context(), name); err == nil && effect != "" {
		a.printf("%s", effect)
	}
}

// printReplicas prints which gateways will follow a change, and whether some
// have the master switch off.
func (a *app) printReplicas(cmd *cobra.Command, db *sqlx.DB, version int64) {
	list, err := replica.NewStore(db, nil).List(cmd.Context())
	if err != nil {
		return // not worth failing for: the tables are older than the command, or not readable
	}
	if len(list) == 0 {
		a.printf("No gateway has reported in the last minute.")
		return
	}
	a.printf("%s; each will use version %d within seconds.", describeReplicas(list), version)
}

// describeReplicas describes in one line which processes run and their problems.
func describeReplicas(list []replica.Replica) string {
	var off, problems []string
	versions := map[string]bool{}
	for _, r := range list {
		versions[r.Version] = true
		if !r.FeatureEnabled {
			off = append(off, r.Host)
		}
		for component, detail := range r.Problems {
			problems = append(problems, fmt.Sprintf("%s: %s: %s", r.Host, component, detail))
		}
		if 2*r.Failures > r.Requests && r.Requests >= 10 {
			problems = append(problems, fmt.Sprintf("%s: %d of %d requests of the last minute failed", r.Host, r.Failures, r.Requests))
		}
	}
	parts := []string{fmt.Sprintf("%d gateways have reported in the last minute", len(list))}
	if len(list) == 1 {
		parts[0] = "1 gateway has reported in the last minute"
	}
	if len(versions) > 1 {
		parts = append(parts, fmt.Sprintf("of %d versions", len(versions)))
	}
	if len(off) > 0 {
		parts = append(parts, fmt.Sprintf("%d with the master switch off, so nobody has it there (%s)", len(off), strings.Join(off, ", ")))
	}
	return strings.Join(append(parts, problems...), "; ")
}
