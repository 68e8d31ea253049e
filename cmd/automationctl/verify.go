package main

import (
	"fmt"
	"io"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

func (a *app) verify() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "verify", Short: "Compare the database with what the feature needs", Args: cobra.NoArgs,
		Long: `Verify compares tables, columns, keys, checks, indexes, triggers and functions
with what the migrations make, and looks at what the gateway's role may do. It
changes nothing; where something is missing it shows the SQL that repairs it, and
the exit code is 1. deploy/grants.sql has all the rights that the role needs.`,
		Example: `  automationctl verify --role gateway
  automationctl verify --json | jq -r '.[].sql' | psql "$DATABASE_URL"`,
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			list, err := schema.Verify(cmd.Context(), db, role)
			if err != nil {
				return err
			}
			if list == nil {
				list = []schema.Problem{}
			}
			err = a.print(list, func(w io.Writer) {
				if len(list) == 0 {
					_, _ = fmt.Fprintln(w, "OK: all that the feature needs is there.")
					return
				}
				for _, p := range list {
					_, _ = fmt.Fprintf(w, "-- %s\n%s\n\n", p, p.SQL)
				}
			})
			if err == nil && len(list) > 0 {
				err = errFindings
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "the role that the gateway connects as, on PostgreSQL (default the one that is connected)")
	return cmd
}
