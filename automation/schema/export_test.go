package schema

import (
	"context"

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

// File is a migration's text.
func File(name string) (string, error) {
	b, err := files.ReadFile(name)
	return string(b), err
}

// Inventory lists the module's objects in a database, one a line.
func Inventory(ctx context.Context, pool *sqlx.DB) (string, error) {
	list, err := sqldb.Read(ctx, sqldb.New(pool, sqldb.Options{}), "test", inventory)
	return format(list), err
}
