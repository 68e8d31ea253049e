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
	parsed          bool // the command line made sense

	// isTerminal reports whether a stream is one, where somebody can be asked and
	// lines can be drawn again.
	isTerminal func(stream any) bool
}

// isTerminal reports whether a stream is a character device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	is, err := f.Stat()
	return err == nil && is.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// open opens the database. Only migrate up creates a SQLite file.
func (a *app) open(create bool) (*sqlx.DB, error) {
	where := cmp.Or(a.database, a.getenv("DATABASE_URL"))
	if where == "" {
		return nil, usage(fmt.Errorf("no database: set DATABASE_URL, or say --database postgres://… or sqlite:PATH"))
	}
	if path, ok := strings.CutPrefix(where, "sqlite:"); ok && !create {
		if _, err := os.Stat(path); err != nil {
			return nil, &cliError{code: codeNotFound, err: err, hint: "check the path; automationctl migrate up makes a new database"}
		}
	}
	db, _, err := dbopen.Open(where)
	if err != nil {
		return nil, usage(err)
	}
	return db, nil
}

// withDB wraps a command that needs the database.
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

// print prints v as JSON, or what table writes.
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

// printf prints progress on standard error.
func (a *app) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.errs, format+"\n", args...)
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	texts := make([]string, len(cells))
	for i, c := range cells {
		if texts[i] = strings.ReplaceAll(fmt.Sprint(c), "\n", " "); texts[i] == "" {
			texts[i] = "-"
		}
	}
	_, _ = fmt.Fprintln(w, strings.Join(texts, "\t"))
}

// formatTime formats a time in UTC.
func formatTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// formatCount groups the digits of a number.
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
