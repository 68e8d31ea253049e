package sqldb

import (
	"fmt"
	"regexp"
	"sync"
)

// texts keeps expanded statements; the module has a fixed, small number.
type texts struct{ m sync.Map }

// argument is a parameter inside a word; PostgreSQL has to be told its type.
var argument = regexp.MustCompile(`\$\d+`)

var brace = regexp.MustCompile(`\{([a-z]+)(?: ([^{}]*))?\}`)

// liteTime is SQLite's form of a time: UTC, milliseconds, sorts as text.
const liteTime = `'%Y-%m-%d %H:%M:%f'`

// Expand puts in what differs between the databases:
//
//	{now}            the database's clock
//	{in $1}          that many seconds from now, a number, negative for the past
//	{unix $1}        the time of so many unix seconds
//	{until col}      the seconds from now until col, a number
//	{text col}       a column that may be a number in an adopted table, as text
//	{each $1}        the rows of a JSON array of texts, for IN
//	{json $1}        a parameter that is JSON
//	{skip}           FOR UPDATE SKIP LOCKED
//	{lock}           FOR UPDATE
//
// An unknown word is a mistake in the program and panics.
func (db *DB) Expand(query string) string {
	if s, ok := db.texts.m.Load(query); ok {
		return s.(string)
	}
	s := brace.ReplaceAllStringFunc(query, func(m string) string {
		p := brace.FindStringSubmatch(m)
		if db.lite {
			return liteWord(p[1], p[2])
		}
		return postgresWord(p[1], p[2])
	})
	db.texts.m.Store(query, s)
	return s
}

// statement_timestamp, not clock_timestamp: only a stable function can be
// looked up in an index.
func postgresWord(word, arg string) string {
	number := argument.ReplaceAllString(arg, "CAST($0 AS double precision)")
	switch word {
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
	panic(fmt.Sprintf("sqldb: no such word in a query: {%s}", word))
}

func liteWord(word, arg string) string {
	switch word {
	case "now":
		return `strftime(` + liteTime + `, 'now')`
	case "in":
		return `strftime(` + liteTime + `, 'now', printf('%+.3f seconds', ` + arg + `))`
	case "unix":
		return `strftime(` + liteTime + `, ` + arg + `, 'unixepoch')`
	case "until":
		return `((julianday(` + arg + `) - julianday('now')) * 86400.0)`
	case "each":
		return `(SELECT value FROM json_each(` + arg + `))`
	case "json", "text":
		return arg
	case "skip", "lock":
		return ``
	}
	panic(fmt.Sprintf("sqldb: no such word in a query: {%s}", word))
}
