package main

import (
	"io"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) cleanup() *cobra.Command {
	var dryRun, confirmed bool
	var auditDays int
	var pause time.Duration
	cmd := &cobra.Command{
		Use: "cleanup", Short: "Remove rows that are past their retention", Args: cobra.NoArgs,
		Long: `Cleanup removes settings that their user deleted and sessions that ended more
than AUTOMATION_RETENTION_DAYS ago, and audit and rollout rows past a retention
of their own. It never removes an opt-out. If AUTOMATION_DEFAULT_OPT_IN is true,
it also removes settings that equal the defaults and were neither changed nor
used for the retention. Set these variables, and DEFAULT_SESSION_EXPIRATION, to
the same values as in the gateway.

It works in small batches with pauses, next to running gateways, which do the
same every AUTOMATION_CLEANUP_INTERVAL. It can be interrupted and run again. The
audit records the name of --actor; a dry run is not recorded.`,
		Example: `  automationctl cleanup --dry-run
  automationctl cleanup --yes`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			if dryRun == confirmed {
				return usagef("cleanup removes rows: use either --dry-run to count them or --yes to remove them")
			}
			cfg, err := a.config("AUTOMATION_RETENTION_DAYS", "AUTOMATION_DEFAULT_OPT_IN", "DEFAULT_SESSION_EXPIRATION",
				"AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS")
			if err != nil {
				return err
			}
			var reported int64
			c, err := cleanup.New(sqldb.New(db, sqldb.Options{Timeout: 30 * time.Second}), cleanup.Options{
				Retention: time.Duration(cfg.RetentionDays) * 24 * time.Hour, AuditRetention: time.Duration(auditDays) * 24 * time.Hour,
				DefaultOptIn: cfg.DefaultOptIn, DefaultDuration: cfg.DefaultSessionDuration, Pause: pause, NoPause: pause == 0,
				Progress: func(r cleanup.Report) {
					if n := r.Total(); !dryRun && n/10_000 > reported/10_000 {
						reported = n
						a.printf("removed %s rows in %s", formatCount(n), r.Took.Round(time.Second))
					}
				},
			})
			if err != nil {
				return usage(err)
			}
			if !dryRun { // recorded first, because a pass may be interrupted
				audit := flagsql.NewAudit(db, sqldb.Options{})
				if err := audit.Record(cmd.Context(), automation.FlagName, flagsql.ActionCleanup, a.actorName(), map[string]any{"cleanup": "begun"}); err != nil {
					return err
				}
			}
			r, err := c.Pass(cmd.Context(), dryRun)
			if err != nil && r.Total() == 0 {
				return err
			}
			if printErr := a.print(r, func(w io.Writer) { writeRemoved(w, r) }); printErr != nil {
				return printErr
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "only count the rows")
	f.BoolVar(&confirmed, "yes", false, "remove the rows")
	f.IntVar(&auditDays, "audit-retention-days", 365, "how long audit and rollout rows are kept")
	f.DurationVar(&pause, "pause", 20*time.Millisecond, "pause between two batches of 200 rows; 0s means none; gateways pause for 200ms")
	return cmd
}

func writeRemoved(w io.Writer, r cleanup.Report) {
	header := "REMOVED"
	if r.DryRun {
		header = "WOULD BE REMOVED"
	}
	row(w, header, "OLDER THAN", "WHAT")
	for _, c := range r.Removed {
		row(w, formatCount(c.Rows), formatDays(c.OlderThan), c.Kind)
	}
}

func formatDays(d time.Duration) string { return formatCount(int64(d/(24*time.Hour))) + " days" }

// config reads the gateway's configuration from only the given variables.
func (a *app) config(names ...string) (automation.Config, error) {
	env := map[string]string{}
	for _, n := range names {
		if v := a.getenv(n); v != "" {
			env[n] = v
		}
	}
	cfg, err := automation.ParseConfig(env)
	if err != nil {
		return cfg, usage(err)
	}
	return cfg, nil
}
