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
// golang-migrate's source iofs: postgres/NNNN_name.up.sql, .down.sql, and the
// same below sqlite. Each records itself in automation_schema_migrations, so
// [Status], [Verify] and [Migrate] agree with the tool.
func Files() fs.FS { return files }

func dir(lite bool) string {
	if lite {
		return "sqlite"
	}
	return "postgres"
}

// embedded lists the embedded migrations, oldest first.
func embedded(lite bool) []Migration {
	names, err := fs.Glob(files, dir(lite)+"/*.up.sql")
	if err != nil {
		panic(err) // the pattern is ours
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

// file is the name of the migration's embedded file; direction is "up" or "down".
func (m Migration) file(lite bool, direction string) string {
	return fmt.Sprintf("%s/%04d_%s.%s.sql", dir(lite), m.Version, m.Name, direction)
}

// run executes a migration's file; direction is "up" or "down".
func run(tx *sqldb.Tx, m Migration, direction string) error {
	name := m.file(tx.SQLite(), direction)
	text, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	for _, s := range statements(string(text)) {
		there, err := hasColumn(tx, s.text)
		if err == nil && !there {
			err = tx.Script(s.text)
		}
		if err != nil {
			return fmt.Errorf("%s, line %d: %w", name, s.line, err)
		}
	}
	return nil
}

// addColumn is the one statement of the files that SQLite cannot run twice: it
// knows no ADD COLUMN IF NOT EXISTS.
var addColumn = regexp.MustCompile(`^ALTER TABLE (\w+) ADD COLUMN (\w+) `)

// hasColumn reports whether a statement adds a column that SQLite has already.
func hasColumn(tx *sqldb.Tx, statement string) (bool, error) {
	m := addColumn.FindStringSubmatch(statement)
	if m == nil || !tx.SQLite() {
		return false, nil
	}
	var n int
	err := tx.Get(&n, `SELECT count(*) FROM pragma_table_info($1) WHERE name = $2`, m[1], m[2])
	return n > 0, err
}

// A statement of a file, and the line where it begins.
type statement struct {
	line int
	text string
}

// A statement ends with a semicolon at the end of a line, but for those inside
// $$ … $$ or a trigger's BEGIN … END.
var (
	opens  = regexp.MustCompile(`(?i)^BEGIN$`)
	closes = regexp.MustCompile(`(?i)^END;$`)
)

// statements splits a file, because a driver may send only one at a time.
func statements(text string) []statement {
	var list []statement
	var now strings.Builder
	var quoted, trigger bool
	begun := 0
	for i, line := range strings.SplitAfter(text, "\n") {
		code, _, _ := strings.Cut(line, "--")
		code = strings.TrimSpace(code)
		if code == "" && begun == 0 {
			continue // between two statements
		}
		if begun == 0 {
			begun = i + 1
		}
		now.WriteString(line)
		if strings.Count(code, "$$")%2 == 1 {
			quoted = !quoted
		}
		if !quoted {
			trigger = (trigger || opens.MatchString(code)) && !closes.MatchString(code)
		}
		if !quoted && !trigger && strings.HasSuffix(code, ";") {
			list = append(list, statement{begun, strings.TrimSpace(now.String())})
			now.Reset()
			begun = 0
		}
	}
	if begun > 0 { // the database says what is wrong with it
		list = append(list, statement{begun, strings.TrimSpace(now.String())})
	}
	return list
}
