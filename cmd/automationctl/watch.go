package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) watchRollout() *cobra.Command {
	var interval time.Duration
	cmd := &cobra.Command{
		Use: "watch NAME", Short: "Follow a rollout until it ends", Args: cobra.ExactArgs(1),
		Long: `Watch follows a rollout until it ends: 0 is the exit code of a rollout that was
completed, 1 that of one that was rolled back or aborted. A terminal shows its
stages, both arms and the time left, drawn again in place. Elsewhere each step
is a line on standard output as it is taken, and how the rollout stands one on
standard error. It only looks: the gateways do the work. A database that is away
for a while is waited for.`,
		Example: "  automationctl rollout watch automation",
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, _ *flags.Store) error {
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
	var show func(rollout.Status) error
	if !a.json && a.isTerminal(a.out) {
		drawn := &screen{out: a.out}
		show = func(s rollout.Status) error { return drawn.show(ctx, c, s) }
	}
	var seen int64
	stands := ""
	for first := true; ; first = false {
		s, err := c.Get(ctx, name)
		if first {
			seen = max(s.Seq-1, 0) // the last step, to begin with
		}
		switch {
		case err != nil:
		case show != nil:
			err = show(s)
		default:
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
			if show == nil {
				a.printChange(&stands, fmt.Sprintf("%s: %s, stage %s, %v %%, watched %s of %s, %s requests, %s failed", name, s.State, formatStage(s), s.Percentage,
					seconds(s.WatchedSeconds), seconds(s.HoldSeconds), formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed)))
			}
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

// screen is a terminal on which a rollout is drawn again in place.
type screen struct {
	out   io.Writer
	lines int // drawn so far
}

// shownSteps is how many of the newest steps a screen has.
const shownSteps = 5

// show draws how a rollout stands over what was drawn before.
func (d *screen) show(ctx context.Context, c *rollout.Store, s rollout.Status) error {
	steps, err := c.Events(ctx, s.Name, shownSteps, 0)
	if err != nil {
		return err
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 3, ' ', 0)
	writeProgress(w, s)
	if err := w.Flush(); err != nil {
		return err
	}
	for _, e := range slices.Backward(steps) {
		_, _ = fmt.Fprintf(&text, "%s %s\n", formatTime(e.At.Time), formatEvent(e))
	}
	up := ""
	if d.lines > 0 {
		up = fmt.Sprintf("\x1b[%dA\x1b[J", d.lines) // to the first line, and clear from there
	}
	// A line that wraps would be two, so each ends within the narrowest terminal.
	const width = 79
	lines := strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")
	for i, line := range lines {
		if r := []rune(line); len(r) > width {
			lines[i] = string(r[:width-1]) + "…"
		}
	}
	d.lines = len(lines)
	_, err = fmt.Fprintln(d.out, up+strings.Join(lines, "\n"))
	return err
}

// writeProgress writes a rollout's stages with the time left, and both arms.
func writeProgress(w io.Writer, s rollout.Status) {
	state := string(s.State)
	if s.Reason != "" {
		state += ", by " + s.Reason
	}
	_, _ = fmt.Fprintf(w, "%s: %s\n", s.Name, state)
	if s.Detail != "" {
		_, _ = fmt.Fprintln(w, s.Detail)
	}
	_, _ = fmt.Fprintln(w)
	row(w, " ", "STAGE", "PERCENT", "HOLD", "LEFT")
	for i, stage := range s.Plan.Stages {
		mark, left := " ", stage.Hold
		switch {
		case i < s.Stage || s.State == rollout.StateCompleted:
			mark, left = "x", 0
		case i == s.Stage:
			mark, left = ">", max(stage.Hold-seconds(s.WatchedSeconds), 0)
		}
		row(w, mark, stage.Name, stage.Percentage, stage.Hold, left)
	}
	_, _ = fmt.Fprintln(w)
	row(w, " ", "REQUESTS", "FAILED", "LATENCY")
	row(w, "with it", formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed), s.Evidence.Exposed.Latency().Round(time.Millisecond))
	row(w, "without", formatCount(s.Evidence.Control.Outcomes), formatRate(s.Evidence.Control), s.Evidence.Control.Latency().Round(time.Millisecond))
	_, _ = fmt.Fprintln(w)
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
		text := formatTime(e.At.Time) + " " + formatEvent(e)
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
