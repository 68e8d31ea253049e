package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

func (a *app) report() *cobra.Command {
	var bugs, users int
	cmd := &cobra.Command{
		Use: "report [NAME]", Short: "Measure a rollout by its criteria of success", Args: cobra.MaximumNArgs(1),
		Long: `Report measures the current rollout of NAME, automation unless named, by the
plan's criteria: 100 % for 72 h, an error rate below 1 %, adoption of at least
30 % in the first week, no open P0 or P1 bug, and latencies within their range.
What was neither measured nor stated stays open. The exit code is 1 where a
criterion is not met.

The database does not know how many users there are, nor what bugs are open:
say --users and --open-bugs. Who has adopted it is who has it switched on in
their settings now.`,
		Example: "  automationctl report --users 5000 --open-bugs 0",
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			name := automationFlag
			if len(args) > 0 {
				name = args[0]
			}
			var g rollout.Goals
			if cmd.Flags().Changed("open-bugs") {
				g.OpenBugs = &bugs
			}
			if cmd.Flags().Changed("users") {
				g.Adopters = adopters(db, users)
			}
			c, err := rollout.New(db, rollout.Options{})
			if err != nil {
				return err
			}
			r, err := c.Store().Report(cmd.Context(), name, g)
			if err != nil {
				return err
			}
			err = a.print(r, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s: %s, epoch %d: %s\n\n", r.Rollout, r.State, r.Epoch, r.Verdict)
				row(w, "CRITERION", "VERDICT", "WANTED", "MEASURED")
				for _, c := range r.Criteria {
					row(w, c.Name, c.Verdict, c.Wanted, c.Measured)
				}
			})
			if err == nil && r.Verdict == rollout.VerdictNotMet {
				err = errFindings
			}
			return err
		}),
	}
	cmd.Flags().IntVar(&bugs, "open-bugs", 0, "open P0 and P1 bugs")
	cmd.Flags().IntVar(&users, "users", 0, "users who could have switched it on")
	return cmd
}

// automationFlag is the feature's own flag.
const automationFlag = "automation"

// adopters counts the users who have it on.
func adopters(db *sqlx.DB, users int) func(context.Context, time.Time, time.Time) (int, int, error) {
	return func(ctx context.Context, from, to time.Time) (int, int, error) {
		store, err := settings.NewStore(db, settings.Defaults{}, settings.StoreOptions{})
		if err != nil {
			return 0, 0, err
		}
		enabled, _, err := store.OptInCounts(ctx, from, to)
		return int(enabled), users, err
	}
}
