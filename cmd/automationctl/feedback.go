package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func (a *app) feedback() *cobra.Command {
	cmd := &cobra.Command{Use: "feedback", Short: "Read what users say about the feature", Args: noSuchCommand, RunE: showHelp}
	var f feedback.Filter
	list := &cobra.Command{
		Use: "list", Short: "List feedback, the newest first", Args: cobra.NoArgs,
		Example: "  automationctl feedback list --open",
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			list, err := feedback.NewStore(db, sqldb.Options{}).List(cmd.Context(), f)
			if err != nil {
				return err
			}
			if list == nil {
				list = []feedback.Entry{}
			}
			return a.print(list, func(w io.Writer) {
				row(w, "ID", "WHEN", "USER", "RATING", "STAGE", "DONE", "MESSAGE")
				for _, e := range list {
					rating := "-"
					if e.Rating != nil {
						rating = strconv.Itoa(*e.Rating)
					}
					row(w, e.ID, formatTime(e.CreatedAt.Time), e.UserID, rating, e.Stage, formatTime(e.DoneAt.Time), e.Message)
				}
			})
		}),
	}
	list.Flags().BoolVar(&f.Open, "open", false, "only feedback that is not done")
	list.Flags().StringVar(&f.Stage, "stage", "", "only feedback given in this stage")
	list.Flags().StringVar(&f.UserID, "user", "", "only feedback of this user")
	list.Flags().Int64Var(&f.Before, "before", 0, "only ids below this one, for the next page")
	list.Flags().IntVar(&f.Limit, "limit", 20, "the maximum number, 1 to 1000")
	done := &cobra.Command{
		Use: "done ID", Short: "Mark feedback as done", Args: cobra.ExactArgs(1),
		RunE: a.withDB(func(cmd *cobra.Command, args []string, db *sqlx.DB) error {
			id, err := strconv.ParseInt(args[0], 10, 64)
			if err != nil {
				return usagef("%q is not an id; automationctl feedback list shows the ids", args[0])
			}
			e, err := feedback.NewStore(db, sqldb.Options{}).MarkDone(cmd.Context(), id, a.actorName())
			if err != nil {
				return err
			}
			return a.print(e, func(w io.Writer) { _, _ = fmt.Fprintf(w, "Feedback %d is marked as done by %s.\n", e.ID, e.DoneBy) })
		}),
	}
	cmd.AddCommand(list, done)
	return cmd
}
