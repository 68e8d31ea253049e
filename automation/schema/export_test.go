package schema

import (
	"context"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Statements splits the text of a migration into statements.
func Statements(text string) (list []string) {
	for _, s := range splitStatements(text) {
		list = append(list, s.text)
	}
	return list
}

// Inventory returns the module's objects in a database, one per line.
func Inventory(ctx context.Context, pool *sqlx.DB) (string, error) {
	list, err := sqldb.Read(ctx, sqldb.New(pool, sqldb.Options{}), "test", inventory)
	return format(list), err
}

// format returns objects, one per line. The objects of a table are indented below it.
func format(list []object) string {
	var b strings.Builder
	for _, o := range list {
		if o.Table != "" {
			b.WriteString("  ")
		}
		b.WriteString(o.Kind + " " + o.Name)
		if o.Definition != "" {
			b.WriteString(": " + o.Definition + o.Default)
		}
		b.WriteString("\n")
	}
	return b.String()
}
