package main

import (
	"context"
	"fmt"
	"io"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// verifyResult is one problem. SQL cannot repair a warning, and a warning does not change
// the exit code.
type verifyResult struct {
	Severity string `json:"severity"` // error or warning
	schema.Problem
}

func (a *app) verify() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "verify", Short: "Compare the database with what the feature needs", Args: cobra.NoArgs,
		Long: `Verify compares tables, columns, keys, checks, indexes, triggers and functions
with those that the migrations create, and checks the privileges of the
gateway's role. It changes nothing. If there are problems, it prints the SQL
that repairs them, and the exit code is 1. deploy/grants.sql has all privileges
that the role needs.

If there are no problems, it warns of open sessions of the wallet that no row
explained when the gateways last compared them. The exit code is then 0.`,
		Example: `  automationctl verify --role gateway
  automationctl verify --json | jq -r '.[].sql' | psql "$DATABASE_URL"`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			problems, err := schema.Verify(cmd.Context(), db, role)
			if err != nil {
				return err
			}
			list := []verifyResult{}
			for _, p := range problems {
				list = append(list, verifyResult{"error", p})
			}
			if len(list) == 0 {
				if list, err = unexplainedSessions(cmd.Context(), db); err != nil {
					return err
				}
			}
			err = a.print(list, func(w io.Writer) {
				if len(problems) == 0 {
					_, _ = fmt.Fprintln(w, "OK: the database has everything that the feature needs.")
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
	cmd.Flags().StringVar(&role, "role", "", "the gateway's role on PostgreSQL (default the connected role)")
	return cmd
}

// unexplainedSessions returns a warning for each wallet with open sessions that the
// gateways did not open but that the wallet pays for.
func unexplainedSessions(ctx context.Context, db *sqlx.DB) ([]verifyResult, error) {
	list := []verifyResult{}
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
		list = append(list, verifyResult{"warning", schema.Problem{
			Object:  fmt.Sprintf("automation_wallet %s", w.Name),
			Problem: fmt.Sprintf("has %d open sessions that no row of automation_sessions explains (compared at %s)", w.Unexplained, w.ComparedAt),
			SQL:     "-- Another program opens sessions with the gateways' wallet: give automation its own wallet. See docs/runbook.md, weekly review",
		}})
	}
	return list, nil
}
