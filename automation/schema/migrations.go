package schema

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// Files returns the migrations as files for another tool, such as
// golang-migrate's source iofs: postgres/NNNN_name.up.sql and .down.sql, and the
// same below sqlite. Each file records itself in automation_schema_migrations, so
// [Status], [Verify] and [Migrate] agree with the tool.
func Files() fs.FS { return files }

// dir returns the folder of a database's migrations.
func dir(sqlite bool) string {
	if sqlite {
		return "sqlite"
	}
	return "postgres"
}

// embedded returns the embedded migrations, oldest first.
func embedded(sqlite bool) []Migration {
	names, err := fs.Glob(files, dir(sqlite)+"/*.up.sql")
	if err != nil {
		panic(err) // cannot happen: the pattern is constant and valid
	}
	list := make([]Migration, 0, len(names))
	for _, name := range names {
		number, rest, _ := strings.Cut(strings.TrimSuffix(path.Base(name), ".up.sql"), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			panic("schema: a migration's name must start with its number: " + name)
		}
		list = append(list, Migration{Version: version, Name: rest})
	}
	slices.SortFunc(list, func(a, b Migration) int { return cmp.Compare(a.Version, b.Version) })
	return list
}

// fileName returns the name of the migration's embedded file; direction is "up" or "down".
func (m Migration) fileName(sqlite bool, direction string) string {
	return fmt.Sprintf("%s/%04d_%s.%s.sql", dir(sqlite), m.Version, m.Name, direction)
}

// runFile executes a migration's file; direction is "up" or "down".
func runFile(tx *sqldb.Tx, m Migration, direction string) error {
	name := m.fileName(tx.SQLite(), direction)
	text, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	for _, s := range splitStatements(string(text)) {
		exists, err := hasColumn(tx, s.text)
		if err == nil && !exists {
			err = tx.Script(s.text)
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", name, s.line, err)
		}
	}
	return nil
}

// addColumn matches the only statement of the files that SQLite cannot run twice: it
// has no ADD COLUMN IF NOT EXISTS.
var addColumn = regexp.MustCompile(`^ALTER TABLE (\w+) ADD COLUMN (\w+) `)

// hasColumn reports whether a statement adds a column that a SQLite table already has.
func hasColumn(tx *sqldb.Tx, statement string) (bool, error) {
	m := addColumn.FindStringSubmatch(statement)
	if m == nil || !tx.SQLite() {
		return false, nil
	}
	var n int
	err := tx.Get(&n, `SELECT count(*) FROM pragma_table_info($1) WHERE name = $2`, m[1], m[2])
	return n > 0, err
}

// statement is a statement of a file.
type statement struct {
	line int // on which it begins, from 1
	text string
}

// The lines that begin and end the body of a trigger of SQLite.
var (
	triggerBegin = regexp.MustCompile(`(?i)^BEGIN$`)
	triggerEnd   = regexp.MustCompile(`(?i)^END;$`)
)

// splitStatements splits a file into its statements, because some drivers send only one at
// a time. A statement ends with a semicolon at the end of a line, unless the semicolon is
// inside $$ … $$ or a trigger's BEGIN … END.
func splitStatements(text string) []statement {
	var list []statement
	var current strings.Builder
	var inQuotes, inTrigger bool
	firstLine := 0 // of the current statement; 0: between two statements
	for i, line := range strings.SplitAfter(text, "\n") {
		code, _, _ := strings.Cut(line, "--")
		code = strings.TrimSpace(code)
		if code == "" && firstLine == 0 {
			continue
		}
		if firstLine == 0 {
			firstLine = i + 1
		}
		current.WriteString(line)
		if strings.Count(code, "$$")%2 == 1 {
			inQuotes = !inQuotes
		}
		if !inQuotes {
			inTrigger = (inTrigger || triggerBegin.MatchString(code)) && !triggerEnd.MatchString(code)
		}
		if !inQuotes && !inTrigger && strings.HasSuffix(code, ";") {
			list = append(list, statement{firstLine, strings.TrimSpace(current.String())})
			current.Reset()
			firstLine = 0
		}
	}
	if firstLine > 0 { // the last statement has no semicolon; the database reports any error
		list = append(list, statement{firstLine, strings.TrimSpace(current.String())})
	}
	return list
}
