package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) report() *cobra.Command {
	var bugs, users int
	var markdown bool
	o := report.Options{}
	cmd := &cobra.Command{
		Use: "report [NAME]", Short: "Measure a rollout by its success criteria, and review a week", Args: cobra.MaximumNArgs(1),
		Long: `Report measures the current rollout of NAME (default automation) by the plan's
criteria: 100 % for 72 h, an error rate below 1 %, adoption of at least 30 % in
the first week, no open P0 or P1 bug, and latencies within their range. If
people change the flag by hand instead of a rollout, the flag's audit shows when
it began. A criterion that was neither measured nor stated stays open. After a
rollback the report shows its cause. The exit code is 1 if a criterion is not
met.

It also reviews the last week, or --since: opened sessions, errors by cause,
users, sessions paid for but not used, and feedback. --markdown prints all of it
for the weekly review.

The database contains neither the number of users nor the open bugs: give them
as --users and --open-bugs. Users have adopted the feature if they used it or
switched it on within the first week. AUTOMATION_RETENTION_DAYS is how long
gateways keep sessions (default 30).`,
		Example: "  automationctl report --users 5000 --open-bugs 0\n" +
			"  automationctl report --users 5000 --open-bugs 0 --since 168h --markdown > review.md",
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			if o.Since <= 0 {
				return usagef("--since is %v, expected more than 0, such as 168h", o.Since)
			}
			if o.Flag = automationFlag; len(args) > 0 {
				o.Flag = args[0]
			}
			if cmd.Flags().Changed("open-bugs") {
				o.OpenBugs = &bugs
			}
			if cmd.Flags().Changed("users") {
				o.Users = func(context.Context) (int, error) { return users, nil }
			}
			cfg, err := a.config("AUTOMATION_RETENTION_DAYS")
			if err != nil {
				return err
			}
			o.Retention = time.Duration(cfg.RetentionDays) * 24 * time.Hour
			r, err := report.New(db, rollout.NewStore(db), sqldb.Options{}).Make(cmd.Context(), o)
			if err != nil {
				return err
			}
			if markdown && !a.json {
				_, err = fmt.Fprint(a.out, r.Markdown())
			} else {
				err = a.print(r, func(w io.Writer) { writeReport(w, r) })
			}
			if err == nil && r.Verdict == report.VerdictNotMet {
				err = errFindings
			}
			return err
		}),
	}
	cmd.Flags().IntVar(&bugs, "open-bugs", 0, "the number of open P0 and P1 bugs")
	cmd.Flags().IntVar(&users, "users", 0, "the number of users who could have the feature")
	cmd.Flags().DurationVar(&o.Since, "since", 7*24*time.Hour, "the time to review, until now")
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print a document for the weekly review")
	return cmd
}

// automationFlag is the feature's own flag.
const automationFlag = "automation"

// writeReport writes a report for a terminal.
func writeReport(w io.Writer, r report.Report) {
	by := fmt.Sprintf("epoch %d", r.Epoch)
	if r.ByHand {
		by = "by hand"
	}
	_, _ = fmt.Fprintf(w, "%s: %s, %s: %s\n\n", r.Rollout, r.State, by, r.Verdict)
	row(w, "CRITERION", "VERDICT", "WANTED", "MEASURED")
	for _, c := range r.Criteria {
		row(w, c.Name, c.Verdict, c.Wanted, c.Measured)
	}
	if len(r.Steps) > 0 {
		_, _ = fmt.Fprintln(w)
		row(w, "SINCE", "WHO", "WHO HAS IT")
		for _, s := range r.Steps {
			row(w, formatTime(s.At), s.By, s)
		}
	}
	if b := r.TakenBack; b != nil {
		_, _ = fmt.Fprintf(w, "\nrolled back by %s at %s, in the stage %s since %s: %d of %d requests had failed\n", b.By, formatTime(b.At), b.Stage, formatTime(b.Since),
			b.Evidence.Failures, b.Evidence.Outcomes)
		if b.Detail != "" {
			_, _ = fmt.Fprintln(w, b.Detail)
		}
		for _, c := range b.Activity {
			if c.Cause != string(outcome.None) {
				row(w, c.Kind, c.Cause, formatCount(c.Requests))
			}
		}
	}
	writeReview(w, r.Review)
}

func writeReview(w io.Writer, v report.Review) {
	_, _ = fmt.Fprintf(w, "\nfrom %s to %s\n\n", formatTime(v.From), formatTime(v.To))
	row(w, "WHAT", "COUNT")
	for _, o := range v.Opens {
		row(w, "sessions opened for: "+o.Purpose, fmt.Sprintf("%s, %s failed", formatCount(o.Opened), formatCount(o.Failed)))
	}
	for _, c := range v.Activity {
		row(w, "requests: "+c.Kind+", "+c.Cause, formatCount(c.Requests))
	}
	row(w, "users who used it", formatCount(v.Users.Active))
	row(w, "settings written, on", formatCount(v.Users.OptedIn))
	row(w, "settings written, off", formatCount(v.Users.OptedOut))
	for _, u := range v.Unused {
		row(w, "sessions "+u.What, formatCount(u.Sessions))
	}
	row(w, "feedback", fmt.Sprintf("%d, %d open", v.Feedback.Count, v.Feedback.Open))
}
