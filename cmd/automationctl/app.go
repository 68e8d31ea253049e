package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/internal/dbopen"
)

// app is one invocation of the command.
type app struct {
	getenv    func(string) string
	in        io.Reader
	out, errs io.Writer

	database, actor string
	json            bool
	parsed          bool // cobra has accepted the command line

	// isTerminal reports whether a stream is a terminal, on which the command can ask
	// for confirmation and redraw lines.
	isTerminal func(stream any) bool
}

// isTerminal reports whether a stream is a character device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// open opens the database. It creates a SQLite file only if create is true.
func (a *app) open(create bool) (*sqlx.DB, error) {
	databaseURL := cmp.Or(a.database, a.getenv("DATABASE_URL"))
	if databaseURL == "" {
		return nil, usage(fmt.Errorf("no database: set DATABASE_URL or --database to postgres://… or sqlite:PATH"))
	}
	if path, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok && !create {
		if _, err := os.Stat(path); err != nil {
			return nil, &cliError{code: codeNotFound, err: err, hint: "check the path; automationctl migrate up creates a new database"}
		}
	}
	db, _, err := dbopen.Open(databaseURL)
	if err != nil {
		return nil, usage(err)
	}
	return db, nil
}

// withDB wraps a command that needs the database. Only migrate up creates a SQLite file.
func (a *app) withDB(fn func(cmd *cobra.Command, args []string, db *sqlx.DB) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		db, err := a.open(cmd.CommandPath() == "automationctl migrate up")
		if err != nil {
			return err
		}
		defer db.Close()
		return fn(cmd, args, db)
	}
}

// actorName returns the actor for the audit.
func (a *app) actorName() string { return cmp.Or(a.actor, systemUser(a.getenv), "automationctl") }

// print prints v as JSON if --json is set, otherwise the text that table writes.
func (a *app) print(v any, table func(w io.Writer)) error {
	if a.json {
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 3, ' ', 0)
	table(w)
	return w.Flush()
}

// printf prints a line on standard error, such as progress.
func (a *app) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.errs, format+"\n", args...)
}

// row writes one row of a table. An empty cell becomes "-".
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = strings.ReplaceAll(fmt.Sprint(c), "\n", " "); texts[i] == "" {
			texts[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(w, strings.Join(texts, "\t"))
}

// formatTime formats a time in UTC, and the zero time as "-".
func formatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// formatCount formats a number with a comma after each group of three digits.
func formatCount(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func formatBool(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
