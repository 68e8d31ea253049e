package sqldb

import (
	"fmt"
	"regexp"
	"sync"
)

// cache holds expanded statements. It has no bound, because the module has a small,
// fixed number of statements.
type cache struct{ sync.Map }

// argument is a parameter inside a macro; PostgreSQL needs its type.
var argument = regexp.MustCompile(`\$\d+`)

var macro = regexp.MustCompile(`\{([a-z]+)(?: ([^{}]*))?\}`)

// sqliteTime is the format of a time in SQLite: UTC, milliseconds, sorts as text.
const sqliteTime = `'%Y-%m-%d %H:%M:%f'`

// Expand replaces the macros, which stand for the SQL that differs between the databases:
//
//	{now}            the database's clock
//	{in $1}          that many seconds from now, a number, negative for the past
//	{unix $1}        the time of that many Unix seconds
//	{until col}      the seconds from now until col, a number
//	{text col}       a column that may be a number in an adopted table, as text
//	{each $1}        the elements of a JSON array of strings as rows, for IN
//	{json $1}        a parameter that is JSON
//	{skip}           FOR UPDATE SKIP LOCKED
//	{lock}           FOR UPDATE
//
// An unknown macro is a programming error and panics.
func (db *DB) Expand(query string) string {
	if s, ok := db.expanded.Load(query); ok {
		return s.(string)
	}
	s := macro.ReplaceAllStringFunc(query, func(m string) string {
		p := macro.FindStringSubmatch(m)
		if db.sqlite {
			return sqliteMacro(p[1], p[2])
		}
		return postgresMacro(p[1], p[2])
	})
	db.expanded.Store(query, s)
	return s
}

// postgresMacro uses statement_timestamp and not clock_timestamp, because an
// index can be searched only for the value of a stable function.
func postgresMacro(name, arg string) string {
	number := argument.ReplaceAllString(arg, "CAST($0 AS double precision)")
	switch name {
	case "now":
		return `statement_timestamp()`
	case "in":
		return `statement_timestamp() + make_interval(secs => ` + number + `)`
	case "unix":
		return `to_timestamp(` + number + `)`
	case "until":
		return `CAST(EXTRACT(EPOCH FROM ` + arg + ` - statement_timestamp()) AS double precision)`
	case "text":
		// Where the column is text already this is the column itself, so the
		// column's index serves.
		return `CAST(` + arg + ` AS text)`
	case "each":
		return `(SELECT jsonb_array_elements_text(CAST(` + arg + ` AS jsonb)))`
	case "json":
		return `CAST(` + arg + ` AS jsonb)`
	case "skip":
		return `FOR UPDATE SKIP LOCKED`
	case "lock":
		return `FOR UPDATE`
	}
	panic(fmt.Sprintf("sqldb: unknown macro {%s}", name))
}

func sqliteMacro(name, arg string) string {
	switch name {
	case "now":
		return `strftime(` + sqliteTime + `, 'now')`
	case "in":
		return `strftime(` + sqliteTime + `, 'now', printf('%+.3f seconds', ` + arg + `))`
	case "unix":
		return `strftime(` + sqliteTime + `, ` + arg + `, 'unixepoch')`
	case "until":
		return `((julianday(` + arg + `) - julianday('now')) * 86400.0)`
	case "each":
		return `(SELECT value FROM json_each(` + arg + `))`
	case "json", "text":
		return arg
	case "skip", "lock":
		return ``
	}
	panic(fmt.Sprintf("sqldb: unknown macro {%s}", name))
}
