package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// sqlFile is one file for another migration tool.
type sqlFile struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

func (a *app) migrateSQL() *cobra.Command {
	var format, dir, after string
	var sqlite bool
	cmd := &cobra.Command{
		Use: "sql", Short: "Print the migrations for another tool", Args: cobra.NoArgs,
		Long: `Sql prints the migrations in the format of another tool, or writes them as files
into --dir. The migrations record themselves in every tool, so verify, migrate
status and the gateway agree with the tool. It needs no database.

Formats: golang-migrate and goose use the numbers of the migrations; if your own
migrations have the same numbers, use a separate table of versions. alembic gets
the files in automation/ and a revision in versions/ that runs them.`,
		Example: `  automationctl migrate sql --format goose --dir migrations/automation
  automationctl migrate sql --format alembic --after 4f2a9c1d --dir migrations`,
		RunE: func(*cobra.Command, []string) error {
			database := "postgres"
			if sqlite {
				database = "sqlite"
			}
			list, err := exportMigrations(format, database, after)
			if err != nil {
				return err
			}
			if dir == "" {
				return a.print(list, func(w io.Writer) {
					for _, f := range list {
						_, _ = fmt.Fprintf(w, "-- %s\n%s\n", f.Name, f.Text)
					}
				})
			}
			for _, f := range list {
				name := filepath.Join(dir, filepath.FromSlash(f.Name))
				if err := os.MkdirAll(filepath.Dir(name), 0o750); err != nil {
					return err
				}
				if err := os.WriteFile(name, []byte(f.Text), 0o600); err != nil {
					return err
				}
				a.printf("wrote %s", name)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "golang-migrate", "golang-migrate, goose or alembic")
	f.StringVar(&dir, "dir", "", "the folder to write files to, instead of printing them")
	f.StringVar(&after, "after", "", "for alembic: your last revision, which the new revision follows")
	f.BoolVar(&sqlite, "sqlite", false, "use the migrations for SQLite")
	return cmd
}

// exportMigrations returns the migrations as files for another tool, oldest first.
func exportMigrations(format, database, after string) ([]sqlFile, error) {
	names, err := fs.Glob(schema.Files(), database+"/*.up.sql")
	if err != nil {
		return nil, err
	}
	var list []sqlFile
	for _, name := range names {
		base := strings.TrimSuffix(name, ".up.sql")
		up, err := fs.ReadFile(schema.Files(), name)
		if err != nil {
			return nil, err
		}
		down, err := fs.ReadFile(schema.Files(), base+".down.sql")
		if err != nil {
			return nil, err
		}
		base = path.Base(base)
		switch format {
		case "golang-migrate":
			list = append(list, sqlFile{base + ".up.sql", string(up)}, sqlFile{base + ".down.sql", string(down)})
		case "goose":
			list = append(list, sqlFile{base + ".sql", gooseSection("Up", up) + "\n" + gooseSection("Down", down)})
		case "alembic":
			list = append(list, sqlFile{"automation/" + base + ".up.sql", string(up)}, sqlFile{"automation/" + base + ".down.sql", string(down)})
		default:
			return nil, usagef("--format is %q, expected golang-migrate, goose or alembic", format)
		}
	}
	if format == "alembic" {
		parent := "None"
		if after != "" {
			parent = fmt.Sprintf("%q", after)
		}
		list = append(list, sqlFile{"versions/automation.py", fmt.Sprintf(alembicRevision, parent)})
	}
	return list, nil
}

// gooseSection returns one direction of a goose file. It is marked as one statement,
// because goose would split the bodies of functions.
func gooseSection(direction string, text []byte) string {
	return "-- +goose " + direction + "\n-- +goose StatementBegin\n" + strings.TrimSpace(string(text)) + "\n-- +goose StatementEnd\n"
}

// alembicRevision runs the files with the driver's cursor and without parameters, because
// SQLAlchemy would treat parts of the text as parameters.
const alembicRevision = `revision, down_revision = "automation", %s

from pathlib import Path
from alembic import op

def run(files):
    for f in files:
        op.get_bind().connection.cursor().execute(f.read_text())

folder = Path(__file__).parents[1] / "automation"
def upgrade(): run(sorted(folder.glob("*.up.sql")))
def downgrade(): run(sorted(folder.glob("*.down.sql"), reverse=True))
`
