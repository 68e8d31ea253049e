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
100 %. Running gateways observe each stage for the time in the plan, and roll
the feature back by themselves when too many requests fail. NAME is the name of
the flag.`}
	cmd.AddCommand(a.startRollout(), a.rolloutStatus(), a.watchRollout(), a.rolloutHistory(),
		a.actionCommand(rollout.ActionPause, "Stay in the current stage; gateways still observe it", ""),
		a.actionCommand(rollout.ActionResume, "Continue after a pause", `Resume continues the rollout and sets the flag to the values of the stage. After
a breach the stage begins again.`),
		a.actionCommand(rollout.ActionApprove, "Approve a stage that waits for approval", ""),
		a.actionCommand(rollout.ActionSkip, "Go to the next stage at once", ""),
		a.actionCommand(rollout.ActionPromote, "Go to the last stage at once", "Promote goes to the last stage, which gateways observe as usual."),
		a.actionCommand(rollout.ActionAbort, "End the rollout and switch the flag off", `Abort ends the rollout in any stage and switches the flag off. It works while the
rollout is paused and while the gateways are down.`),
		a.actionCommand(rollout.ActionRestart, "Begin again with the first stage", `Restart begins a new epoch after the end of a rollout, with the same users from
the first stage. If that takes the feature away from users, it asks for
confirmation; without a terminal it needs --yes.`))
	return cmd
}

// actionCommand returns the command for an operator's action.
func (a *app) actionCommand(action rollout.Action, short, long string) *cobra.Command {
	var dryRun, confirmed bool
	cmd := &cobra.Command{
		Use: string(action) + " NAME", Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: a.withRollouts(func(cmd *cobra.Command, args []string, c *rollout.Store, flag *flags.Store) error {
			if action == rollout.ActionRestart {
				if s, err := c.Get(cmd.Context(), args[0]); err == nil && slices.Contains(s.Possible, action) {
					if err := a.confirmRemoval(cmd.Context(), flag, args[0], s.Plan, dryRun, confirmed); err != nil {
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
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what it would do")
	if action == rollout.ActionRestart {
		cmd.Flags().BoolVar(&confirmed, "yes", false, "take the feature away from users without confirmation")
	}
	return cmd
}

// confirmRemoval asks for confirmation if the first stage of a plan takes the feature
// away from users. Without a terminal it returns an error; a dry run only prints the effect.
func (a *app) confirmRemoval(ctx context.Context, store *flags.Store, name string, plan rollout.Plan, dryRun, confirmed bool) error {
	f, err := store.Get(ctx, name)
	if err != nil || !f.Enabled || len(plan.Stages) == 0 || f.Percentage <= plan.Stages[0].Percentage {
		return nil //nolint:nilerr // the step itself returns the same error
	}
	effect := fmt.Sprintf("takes the feature away from users: the flag is at %v %%, the first stage has %v %%", f.Percentage, plan.Stages[0].Percentage)
	switch {
	case dryRun:
		a.printf("This %s.", effect)
		return nil
	case confirmed:
		return nil
	case !a.isTerminal(a.in):
		return usagef("this %s; use --yes to confirm", effect)
	}
	a.printf("This %s. Type yes to confirm:", effect)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	switch {
	case strings.TrimSpace(answer) == "yes":
		return nil
	case err != nil: // nobody can type, for example if the input is /dev/null
		return usagef("this %s; use --yes to confirm", effect)
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
		prefix := ""
		if dryRun {
			prefix = "would be: "
		}
		_, _ = fmt.Fprintln(w, prefix+formatEvent(e))
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
	var dryRun, confirmed bool
	cmd := &cobra.Command{
		Use: "start NAME", Short: "Begin with the first stage", Args: cobra.ExactArgs(1),
		Long: `Start begins a rollout of the flag NAME. The plan is --plan, or the plan of a
rollout that was created but not started, or the deployment plan: the users whom
the flag already lists for 24 h, 10 % for 24 h, 50 % for 24 h, and 100 %, which
is observed for 72 h. It is rolled back when more than 5 % of the requests fail.
After the end of a rollout, restart begins again with the same plan, and start
--plan with a new one. If the first stage takes the feature away from users, it
asks for confirmation; without a terminal it needs --yes.`,
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
			current, err := c.Get(ctx, name)
			isNew := errors.Is(err, rollout.ErrNotFound)
			switch {
			case isNew:
				create = true
			case err != nil:
				return err
			case !create:
				plan = current.Plan
			}
			replacesEnded := create && slices.Contains(current.Possible, rollout.ActionRestart)
			if isNew || current.State == rollout.StatePending || replacesEnded {
				if err := a.confirmRemoval(ctx, flag, name, plan, dryRun, confirmed); err != nil {
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
	cmd.Flags().StringVar(&file, "plan", "", "a file with a plan in JSON, as --dry-run prints it; - is standard input")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only print the plan in JSON")
	cmd.Flags().BoolVar(&confirmed, "yes", false, "take the feature away from users without confirmation")
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
		Use: "status [NAME]", Short: "Show the state of a rollout, or of all", Args: cobra.MaximumNArgs(1),
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			c := rollout.NewStore(db)
			if len(args) == 0 {
				return a.listRollouts(cmd, c)
			}
			current, err := c.Get(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s := rolloutStatus{Status: current, Gateways: a.gatewaysOf(cmd.Context(), db, args[0])}
			return a.print(s, func(w io.Writer) {
				writeStatus(w, s.Status)
				if s.Gateways != nil {
					row(w, "effect", s.Gateways.effect())
				}
			})
		}),
	}
}

func (a *app) rolloutHistory() *cobra.Command {
	var limit int
	var before int64
	cmd := &cobra.Command{
		Use: "history NAME", Short: "Show every step of a rollout", Args: cobra.ExactArgs(1),
		Long: "History shows who or what moved a rollout, when and why, the newest step first.\nIt has the steps of all epochs.",
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
	cmd.Flags().IntVar(&limit, "limit", 20, "the maximum number, 1 to 1000")
	cmd.Flags().Int64Var(&before, "before", 0, "only steps below this number, for the next page")
	return cmd
}

func (a *app) listRollouts(cmd *cobra.Command, c *rollout.Store) error {
	list, err := c.List(cmd.Context())
	if len(list) == 0 && err != nil {
		return err
	}
	if list == nil {
		list = []rollout.Status{}
	}
	printErr := a.print(list, func(w io.Writer) {
		row(w, "NAME", "STATE", "STAGE", "PERCENT", "WAITS FOR", "REQUESTS", "FAILED", "CONTROL FAILED")
		for _, s := range list {
			row(w, s.Name, s.State, formatStage(s), s.Percentage, s.Waiting, formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed), formatRate(s.Evidence.Control))
		}
	})
	return errors.Join(printErr, err)
}

func writeStatus(w io.Writer, s rollout.Status) {
	row(w, "rollout", s.Name)
	state := string(s.State)
	if s.Reason != "" {
		state += ", by " + s.Reason
	}
	row(w, "state", state)
	row(w, "stage", formatStage(s))
	row(w, "percentage", s.Percentage.String()+" %")
	row(w, "waits for", s.Waiting)
	row(w, "observed", fmt.Sprintf("%s of %s", fromSeconds(s.WatchedSeconds), fromSeconds(s.HoldSeconds)))
	row(w, "requests", fmt.Sprintf("%s, %s failed", formatCount(s.Evidence.Exposed.Outcomes), formatRate(s.Evidence.Exposed)))
	row(w, "control", fmt.Sprintf("%s, %s failed", formatCount(s.Evidence.Control.Outcomes), formatRate(s.Evidence.Control)))
	row(w, "epoch", fmt.Sprintf("%d, since %s", s.Epoch, formatTime(s.BeganAt)))
	row(w, "entered", formatTime(s.EnteredAt))
	row(w, "evaluated", formatTime(s.LookedAt))
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

func fromSeconds(s float64) time.Duration { return time.Duration(s) * time.Second }
