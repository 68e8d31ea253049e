package schema

import (
	"context"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Statements splits a migration's file.
func Statements(text string) (list []string) {
	for _, s := range statements(text) {
		list = append(list, s.text)
	}
	return list
}

// Inventory lists the module's objects in a database, one a line.
func Inventory(ctx context.Context, pool *sqlx.DB) (string, error) {
	list, err := sqldb.Read(ctx, sqldb.New(pool, sqldb.Options{}), "test", inventory)
	return format(list), err
}

// format writes objects one a line, those of a table below it.
func format(list []object) string {
	var b strings.Builder
	for _, o := range list {
		if o.Table != "" {
			b.WriteString("  ")
		}
		b.WriteString(o.Kind + " " + o.Name)
		if o.Is != "" {
			b.WriteString(": " + o.Is + o.Default)
		}
		b.WriteString("\n")
	}
	return b.String()
}
