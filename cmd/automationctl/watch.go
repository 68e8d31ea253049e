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
		Long: `Watch follows a rollout until it ends. The exit code is 0 for a completed rollout
and 1 for one that was rolled back or aborted. A terminal shows the stages, both
arms and the time left, and is redrawn in place. Otherwise standard output gets
a line for each step, and standard error a line for each change of the state.
Watch changes nothing; the gateways move the rollout. It waits while the
database is unavailable.`,
		Example: "  automationctl rollout watch automation",
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, _ *flags.Store) error {
			if interval <= 0 {
				return usagef("--interval is %v, expected more than 0", interval)
			}
			return a.followRollout(cmd.Context(), c, args[0], interval)
		}),
	}
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "time between two reads")
	return cmd
}

func (a *app) followRollout(ctx context.Context, c *rollout.Store, name string, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var show func(rollout.Status) error
	if !a.json && a.isTerminal(a.out) {
		terminal := &screen{out: a.out}
		show = func(s rollout.Status) error { return terminal.show(ctx, c, s) }
	}
	var seen int64
	lastStatus := ""
	for first := true; ; first = false {
		s, err := c.Get(ctx, name)
		if first {
			seen = max(s.Seq-1, 0) // the output begins with the last step
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
			a.printChange(&lastStatus, "waiting for the database")
		default:
			if show == nil {
				a.printChange(&lastStatus, fmt.Sprintf("%s: %s, stage %s, %v %%, observed %s of %s, %s requests, %s failed", name, s.State, formatStage(s), s.Percentage,
					fromSeconds(s.WatchedSeconds), fromSeconds(s.HoldSeconds), formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed)))
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

// screen is a terminal on which a rollout is redrawn in place.
type screen struct {
	out   io.Writer
	lines int // of the last drawing
}

// maxSteps is how many of the newest steps a screen shows.
const maxSteps = 5

// show draws the state of a rollout over the last drawing.
func (d *screen) show(ctx context.Context, c *rollout.Store, s rollout.Status) error {
	steps, err := c.Events(ctx, s.Name, maxSteps, 0)
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
	// A wrapped line would take two rows, so lines are truncated to the usual minimum.
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
			mark, left = ">", max(stage.Hold-fromSeconds(s.WatchedSeconds), 0)
		}
		row(w, mark, stage.Name, stage.Percentage, stage.Hold, left)
	}
	_, _ = fmt.Fprintln(w)
	row(w, " ", "REQUESTS", "FAILED", "LATENCY")
	row(w, "exposed", formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed), s.Evidence.Exposed.Latency().Round(time.Millisecond))
	row(w, "control", formatCount(s.Evidence.Control.Outcomes), formatRate(s.Evidence.Control), s.Evidence.Control.Latency().Round(time.Millisecond))
	_, _ = fmt.Fprintln(w)
}

// printChange prints a line on standard error if it differs from the last one.
func (a *app) printChange(last *string, line string) {
	if *last != line {
		a.printf("%s", line)
	}
	*last = line
}

// printSteps prints the events after the number seen and returns the number of the last.
func (a *app) printSteps(ctx context.Context, c *rollout.Store, s rollout.Status, seen int64) (int64, error) {
	if s.Seq == seen {
		return seen, nil
	}
	// There may be newer steps than s, which the next call prints.
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
