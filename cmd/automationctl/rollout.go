package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func (a *app) rollout() *cobra.Command {
	cmd := &cobra.Command{Use: "rollout", Short: "Move a flag through its stages", Args: noSuchCommand, RunE: showHelp,
		Long: `A rollout moves a flag through stages, such as internal users, 10 %, 50 % and
100 %. Running gateways watch each for as long as the plan says, and take the
feature back by themselves when too many requests fail. NAME is the flag's.`}
	cmd.AddCommand(a.startRollout(), a.rolloutStatus(), a.watchRollout(), a.rolloutHistory(),
		a.act(rollout.ActionPause, "Stay in the stage; it stays watched", ""),
		a.act(rollout.ActionResume, "Continue after a pause", `Resume continues, and sets the flag to what the stage says. After a breach the
stage begins again.`),
		a.act(rollout.ActionApprove, "Let a stage pass that waits for approval", ""),
		a.act(rollout.ActionSkip, "Go to the next stage at once", ""),
		a.act(rollout.ActionPromote, "Go to the last stage at once", "Promote goes to the last stage, which is watched as ever."),
		a.act(rollout.ActionAbort, "End it and switch the flag off", `Abort ends the rollout and switches the flag off, in whatever stage it is. It
works while the rollout is paused, and while the gateways are down.`),
		a.act(rollout.ActionRestart, "Begin again with the first stage", `Restart begins a new epoch after the end of one: the same users, from the first
stage. Where that takes the feature from users who have it, it asks first, and
needs --yes where nobody can be asked.`))
	return cmd
}

// act returns the command for an operator's action.
func (a *app) act(action rollout.Action, short, long string) *cobra.Command {
	var dryRun, sure bool
	cmd := &cobra.Command{
		Use: string(action) + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, flag *flags.Store) error {
			if action == rollout.ActionRestart {
				if s, err := c.Get(cmd.Context(), args[0]); err == nil && slices.Contains(s.Possible, action) {
					if err := a.confirmTakingAway(cmd.Context(), flag, args[0], s.Plan, dryRun, sure); err != nil {
						return err
					}
				}
			}
			e, err := c.Execute(cmd.Context(), args[0], rollout.Command{Action: action, Actor: a.actorName(), DryRun: dryRun})
			if err != nil {
				return err
			}
			return a.printEvent(e, dryRun)
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what it would do")
	if action == rollout.ActionRestart {
		cmd.Flags().BoolVar(&sure, "yes", false, "take the feature from users who have it, without confirmation")
	}
	return cmd
}

// confirmTakingAway asks before the first stage of a plan takes the feature from
// users who have it. Where nobody can be asked it refuses; a dry run only says so.
func (a *app) confirmTakingAway(ctx context.Context, store *flags.Store, name string, plan rollout.Plan, dryRun, sure bool) error {
	f, err := store.Get(ctx, name)
	if err != nil || !f.Enabled || len(plan.Stages) == 0 || f.Percentage <= plan.Stages[0].Percentage {
		return nil //nolint:nilerr // whatever is wrong, the step itself says so
	}
	effect := fmt.Sprintf("takes the feature from users who have it: the flag is at %v %%, the first stage has %v %%", f.Percentage, plan.Stages[0].Percentage)
	switch {
	case dryRun:
		a.printf("This %s.", effect)
		return nil
	case sure:
		return nil
	case !a.isTerminal(a.in):
		return usagef("this %s; say --yes if that is meant", effect)
	}
	a.printf("This %s. Type yes to do it:", effect)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	switch {
	case strings.TrimSpace(answer) == "yes":
		return nil
	case err != nil: // nobody is there, such as behind /dev/null
		return usagef("this %s; say --yes if that is meant", effect)
	}
	return usagef("nothing was changed")
}

func (a *app) withRollouts(fn func(*cobra.Command, []string, *rollout.Store, *flags.Store) error) func(*cobra.Command, []string) error {
	return a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
		return fn(cmd, args, rollout.NewStore(db), flags.NewStore(db, flags.StoreOptions{}))
	})
}

// printEvent prints a step of a rollout.
func (a *app) printEvent(e rollout.Event, dryRun bool) error {
	return a.print(e, func(w io.Writer) {
		would := ""
		if dryRun {
			would = "would be: "
		}
		_, _ = fmt.Fprintln(w, would+formatEvent(e))
	})
}

func formatEvent(e rollout.Event) string {
	s := fmt.Sprintf("%s: %s, now %s in stage %d, %s, %v %%", e.Rollout, e.Action, e.To, e.Stage+1, e.StageName, e.Percentage)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (a *app) startRollout() *cobra.Command {
	var file string
	var dryRun, sure bool
	cmd := &cobra.Command{
		Use: "start NAME", Short: "Begin with the first stage", Args: cobra.ExactArgs(1),
		Long: `Start begins a rollout of the flag NAME. The plan is --plan, or that of a rollout
which was created and not started yet, or else the deployment plan: the users
whom the flag lists already for 24 h, 10 % for 24 h, 50 % for 24 h, and 100 %
under watch for 72 h, taken back when more than 5 % of the requests fail. After
the end of a rollout, restart begins again; --plan begins with a new plan. Where
the first stage has fewer users than have the feature now, it asks first, and
needs --yes where nobody can be asked.`,
		Example: `  automationctl rollout start automation
  automationctl rollout start automation --dry-run > plan.json   # to edit it
  automationctl rollout start automation --plan plan.json`,
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, flag *flags.Store) error {
			ctx, name := cmd.Context(), args[0]
			plan, create := rollout.DefaultPlan(), file != ""
			if file != "" {
				var err error
				if plan, err = a.readPlan(file); err != nil {
					return err
				}
			}
			now, err := c.Get(ctx, name)
			switch {
			case errors.Is(err, rollout.ErrNotFound):
				create = true
			case err != nil:
				return err
			case !create:
				plan = now.Plan
			}
			if errors.Is(err, rollout.ErrNotFound) || now.State == rollout.StatePending || create && slices.Contains(now.Possible, rollout.ActionRestart) {
				if err := a.confirmTakingAway(ctx, flag, name, plan, dryRun, sure); err != nil {
					return err
				}
			}
			if dryRun {
				b, err := json.MarshalIndent(plan, "", "  ")
				if err == nil {
					_, err = fmt.Fprintln(a.out, string(b))
				}
				return err
			}
			if create {
				if _, err := c.Create(ctx, name, plan, a.actorName()); err != nil {
					return err
				}
			}
			e, err := c.Execute(ctx, name, rollout.Command{Action: rollout.ActionStart, Actor: a.actorName()})
			if err != nil {
				return err
			}
			return a.printEvent(e, false)
		}),
	}
	cmd.Flags().StringVar(&file, "plan", "", "a plan in JSON, as --dry-run shows one; - is standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show the plan, in JSON")
	cmd.Flags().BoolVar(&sure, "yes", false, "take the feature from users who have it, without confirmation")
	return cmd
}

func (a *app) readPlan(file string) (rollout.Plan, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(a.in)
	} else {
		text, err = os.ReadFile(file) //nolint:gosec // the operator's own path
	}
	if err != nil {
		return rollout.Plan{}, usage(err)
	}
	return rollout.ParsePlan(text)
}

func (a *app) rolloutStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status [NAME]", Short: "Show how a rollout stands, or all", Args: cobra.MaximumNArgs(1),
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			c := rollout.NewStore(db)
			if len(args) == 0 {
				return a.rollouts(cmd, c)
			}
			now, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s := rolloutStatus{Status: now, Gateways: a.gatewaysOf(cmd.Context(), db, args[0])}
			return a.print(s, func(w io.Writer) {
				status(w, s.Status)
				if s.Gateways != nil {
					row(w, "who is in", s.Gateways.effect())
				}
			})
		}),
	}
}

func (a *app) rolloutHistory() *cobra.Command {
	var limit int
	var before int64
	cmd := &cobra.Command{
		Use: "history NAME", Short: "Show every step that a rollout took", Args: cobra.ExactArgs(1),
		Long: "History shows who or what moved a rollout, when and why, the newest first, over all its epochs.",
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, _ *flags.Store) error {
			list, err := c.Events(cmd.Context(), args[0], limit, before)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) {
				row(w, "STEP", "WHEN", "WHO", "WHAT", "STATE", "STAGE", "PERCENT", "WHY")
				for _, e := range list {
					row(w, e.Seq, formatTime(e.At.Time), e.Actor, e.Action, e.To, e.StageName, e.Percentage, e.Detail)
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "how many at most, 1 to 1000")
	cmd.Flags().Int64Var(&before, "before", 0, "only steps below this number, to see more")
	return cmd
}

func (a *app) rollouts(cmd *cobra.Command, c *rollout.Store) error {
	list, err := c.List(cmd.Context())
	if len(list) == 0 && err != nil {
		return err
	}
	if list == nil {
		list = []rollout.Status{}
	}
	printed := a.print(list, func(w io.Writer) {
		row(w, "NAME", "STATE", "STAGE", "PERCENT", "WAITS FOR", "REQUESTS", "FAILED", "CONTROL FAILED")
		for _, s := range list {
			row(w, s.Name, s.State, formatStage(s), s.Percentage, s.Waiting, formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed), formatRate(s.Evidence.Control))
		}
	})
	return errors.Join(printed, err)
}

func status(w io.Writer, s rollout.Status) {
	row(w, "rollout", s.Name)
	state := string(s.State)
	if s.Reason != "" {
		state += ", by " + s.Reason
	}
	row(w, "state", state)
	row(w, "stage", formatStage(s))
	row(w, "percentage", s.Percentage.String()+" %")
	row(w, "waits for", s.Waiting)
	row(w, "watched", fmt.Sprintf("%s of %s", seconds(s.WatchedSeconds), seconds(s.HoldSeconds)))
	row(w, "requests", fmt.Sprintf("%s, %s failed", formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed)))
	row(w, "control", fmt.Sprintf("%s, %s failed", formatCount(s.Evidence.Control.Outcomes), formatRate(s.Evidence.Control)))
	row(w, "epoch", fmt.Sprintf("%d, since %s", s.Epoch, formatTime(s.BeganAt)))
	row(w, "entered", formatTime(s.EnteredAt))
	row(w, "looked at", formatTime(s.LookedAt))
	var possible []string
	for _, p := range s.Possible {
		possible = append(possible, string(p))
	}
	row(w, "possible", strings.Join(possible, ", "))
}

func formatStage(s rollout.Status) string {
	return fmt.Sprintf("%d of %d, %s", s.Stage+1, len(s.Plan.Stages), s.StageName)
}

func formatRate(c rollout.Counts) string {
	if c.Outcomes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f %%", 100*c.ErrorRate())
}

func seconds(s float64) time.Duration { return time.Duration(s) * time.Second }
