package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) watchRollout() *cobra.Command {
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "watch NAME", Short: "Follow a rollout until it ends", Args: cobra.ExactArgs(1),
		Long: `Watch shows each step of a rollout as it is taken, on standard output, and how
it stands on standard error, until it ends: 0 is the exit code of a rollout that
was completed, 1 that of one that was rolled back or aborted. It only looks: the
gateways do the work. A database that is away for a while is waited for.`,
		Example: "  automationctl rollout watch automation",
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store) error {
			if interval <= 0 {
				return usagef("--interval is %v, expected more than 0", interval)
			}
			return a.followRollout(cmd.Context(), c, args[0], interval)
		}),
	}
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "between two looks")
	return cmd
}

func (a *app) followRollout(ctx context.Context, c *rollout.Store, name string, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var seen int64
	stands := ""
	for first := true; ; first = false {
		s, err := c.Get(ctx, name)
		if first {
			seen = max(s.Seq-1, 0) // the last step, to begin with
		}
		if err == nil {
			seen, err = a.printSteps(ctx, c, s, seen)
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || !errors.Is(err, sqldb.ErrUnavailable)):
			return err
		case err != nil:
			a.printChange(&stands, "the database is away, waiting")
		default:
			a.printChange(&stands, fmt.Sprintf("%s: %s, stage %s, %v %%, watched %s of %s, %s requests, %s failed", name, s.State, formatStage(s), s.Percentage,
				seconds(s.WatchedSeconds), seconds(s.HoldSeconds), formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed)))
			switch s.State {
			case rollout.StateCompleted:
				return nil
			case rollout.StateRolledBack, rollout.StateAborted:
				return errFindings
			case rollout.StatePending, rollout.StateRunning, rollout.StatePaused:
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// printChange prints a line on standard error if it differs from the last.
func (a *app) printChange(last *string, now string) {
	if *last != now {
		a.printf("%s", now)
	}
	*last = now
}

// printSteps prints the events after seen and returns the number of the last.
func (a *app) printSteps(ctx context.Context, c *rollout.Store, s rollout.Status, seen int64) (int64, error) {
	if s.Seq == seen {
		return seen, nil
	}
	// Not the newest: more may have been taken since s was read.
	list, err := c.Events(ctx, s.Name, int(s.Seq-seen), s.Seq+1)
	if err != nil {
		return seen, err
	}
	slices.Reverse(list)
	for _, e := range list {
		seen = e.Seq
		text := formatTime(e.At) + " " + formatEvent(e)
		if a.json {
			b, err := json.Marshal(e)
			if err != nil {
				return seen, err
			}
			text = string(b)
		}
		if _, err := fmt.Fprintln(a.out, text); err != nil {
			return seen, err
		}
	}
	return seen, nil
}
