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
	var dryRun, sure bool
	var auditDays int
	var pause time.Duration
	cmd := &cobra.Command{
		Use: "cleanup", Short: "Remove what is past its retention", Args: cobra.NoArgs,
		Long: `Cleanup removes settings that their user deleted and sessions that ended more
than AUTOMATION_RETENTION_DAYS ago, and audit and rollout rows past a retention
of their own. It never removes what a user switched off. Where
AUTOMATION_DEFAULT_OPT_IN is true it also removes settings that equal the
defaults and were neither touched nor used for the retention: set these
variables, and DEFAULT_SESSION_EXPIRATION, as the gateway has them.

It works in small batches with pauses, next to running gateways, which do the
same every AUTOMATION_CLEANUP_INTERVAL. It may be cut short and run again. The
audit has who began one, under the name of --actor; a dry run is not recorded.`,
		Example: `  automationctl cleanup --dry-run
  automationctl cleanup --yes`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			if dryRun == sure {
				return usagef("cleanup removes rows: say either --dry-run, to see how many, or --yes, to remove them")
			}
			cfg, err := a.config("AUTOMATION_RETENTION_DAYS", "AUTOMATION_DEFAULT_OPT_IN", "DEFAULT_SESSION_EXPIRATION",
				"AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS")
			if err != nil {
				return err
			}
			var said int64
			c, err := cleanup.New(sqldb.New(db, sqldb.Options{Timeout: 30 * time.Second}), cleanup.Options{
				Retention: time.Duration(cfg.RetentionDays) * 24 * time.Hour, AuditRetention: time.Duration(auditDays) * 24 * time.Hour,
				DefaultOptIn: cfg.DefaultOptIn, DefaultDuration: cfg.DefaultSessionDuration, Pause: pause, NoPause: pause == 0,
				Progress: func(r cleanup.Report) {
					if n := r.Total(); !dryRun && n/10_000 > said/10_000 {
						said = n
						a.printf("removed %s rows in %s", formatCount(n), r.Took.Round(time.Second))
					}
				},
			})
			if err != nil {
				return usage(err)
			}
			if !dryRun { // before anything is removed: a pass may be cut off
				audit := flagsql.NewAudit(db, sqldb.Options{})
				if err := audit.Record(cmd.Context(), automation.FlagName, flagsql.ActionCleanup, a.actorName(), map[string]any{"cleanup": "begun"}); err != nil {
					return err
				}
			}
			r, err := c.Pass(cmd.Context(), dryRun)
			if err != nil && r.Total() == 0 {
				return err
			}
			if printed := a.print(r, func(w io.Writer) { removed(w, r) }); printed != nil {
				return printed
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "only count what would be removed")
	f.BoolVar(&sure, "yes", false, "remove it")
	f.IntVar(&auditDays, "audit-retention-days", 365, "how long audit and rollout rows are kept")
	f.DurationVar(&pause, "pause", 20*time.Millisecond, "between two batches of 200 rows; 0s is none; gateways wait 200ms")
	return cmd
}

func removed(w io.Writer, r cleanup.Report) {
	word := "REMOVED"
	if r.DryRun {
		word = "WOULD BE REMOVED"
	}
	row(w, word, "OLDER THAN", "WHAT")
	for _, c := range r.Removed {
		row(w, formatCount(c.Rows), days(c.OlderThan), c.Kind)
	}
}

func days(d time.Duration) string { return formatCount(int64(d/(24*time.Hour))) + " days" }

// config reads the gateway's configuration from the given variables alone.
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
