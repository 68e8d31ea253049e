package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// verified is a line of verify. A warning is nothing that SQL repairs, and leaves
// the exit code at 0.
type verified struct {
	Severity string `json:"severity"` // error or warning
	schema.Problem
}

func (a *app) verify() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "verify", Short: "Compare the database with what the feature needs", Args: cobra.NoArgs,
		Long: `Verify compares tables, columns, keys, checks, indexes, triggers and functions
with what the migrations make, and looks at what the gateway's role may do. It
changes nothing; where something is missing it shows the SQL that repairs it, and
the exit code is 1. deploy/grants.sql has all the rights that the role needs.

Where nothing is missing it warns of open sessions of the wallet that the
gateways, when they last compared, could explain by no row; the exit code is 0.`,
		Example: `  automationctl verify --role gateway
  automationctl verify --json | jq -r '.[].sql' | psql "$DATABASE_URL"`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			problems, err := schema.Verify(cmd.Context(), db, role)
			if err != nil {
				return err
			}
			list := []verified{}
			for _, p := range problems {
				list = append(list, verified{"error", p})
			}
			if len(list) == 0 {
				if list, err = unexplainedSessions(cmd.Context(), db); err != nil {
					return err
				}
			}
			err = a.print(list, func(w io.Writer) {
				if len(problems) == 0 {
					_, _ = fmt.Fprintln(w, "OK: all that the feature needs is there.")
				}
				for _, f := range list {
					if f.Severity == "warning" {
						_, _ = fmt.Fprintf(w, "Warning: %s\n%s\n", f, f.SQL)
						continue
					}
					_, _ = fmt.Fprintf(w, "-- %s\n%s\n\n", f, f.SQL)
				}
			})
			if err == nil && len(problems) > 0 {
				err = errFindings
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "the role that the gateway connects as, on PostgreSQL (default the one that is connected)")
	return cmd
}

// unexplainedSessions warns of a wallet's sessions that somebody pays for and
// nobody here asked for.
func unexplainedSessions(ctx context.Context, db *sqlx.DB) ([]verified, error) {
	list := []verified{}
	var wallets []struct {
		Name        string `db:"name"`
		Unexplained int64  `db:"unexplained"`
		ComparedAt  string `db:"compared_at"`
	}
	err := db.SelectContext(ctx, &wallets, `SELECT name, unexplained, CAST(audited_at AS text) AS compared_at FROM automation_wallet WHERE unexplained > 0 ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("automation_wallet: %w", err)
	}
	for _, w := range wallets {
		list = append(list, verified{"warning", schema.Problem{
			Object:  fmt.Sprintf("automation_wallet %s", w.Name),
			Problem: fmt.Sprintf("has %d open sessions that no row of automation_sessions explains, as compared at %s", w.Unexplained, w.ComparedAt),
			SQL:     "-- Somebody else opens sessions with the gateways' wallet: give automation a wallet of its own. docs/runbook.md, weekly review",
		}})
	}
	return list, nil
}
