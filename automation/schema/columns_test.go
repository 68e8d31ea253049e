package schema_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMigrations_CreateTheSameTablesOnBothDatabases(t *testing.T) {
	t.Parallel()
	// Two tables exist in only one of the databases.
	withoutSpecial := func(names []string) (list []string) {
		for _, n := range names {
			if table, _, _ := strings.Cut(n, " "); table != "automation_adopted_tables" && table != "automation_context" {
				list = append(list, n)
			}
		}
		slices.Sort(list)
		return list
	}
	pgPool, sqlitePool := migratedPostgres(t), migrated(t, sqlite(t, filepath.Join(t.TempDir(), "a.db")))
	for name, q := range map[string]struct{ postgres, sqlite string }{
		"columns": {
			`SELECT table_name || ' ' || column_name FROM information_schema.columns WHERE table_schema = 'public'`,
			`SELECT m.name || ' ' || c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`},
		"columns that may be NULL": {
			`SELECT table_name || ' ' || column_name FROM information_schema.columns WHERE table_schema = 'public' AND is_nullable = 'YES'`,
			`SELECT m.name || ' ' || c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND c."notnull" = 0 AND NOT (c.pk > 0 AND lower(c.type) = 'integer')`},
		"indexes": {
			`SELECT i.tablename || ' ' || i.indexname FROM pg_indexes i WHERE schemaname = 'public' AND NOT EXISTS (SELECT FROM pg_constraint WHERE conname = i.indexname)`,
			`SELECT tbl_name || ' ' || name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite_%'`},
	} {
		if diff := cmp.Diff(withoutSpecial(selectRows[string](t, pgPool, q.postgres)), withoutSpecial(selectRows[string](t, sqlitePool, q.sqlite))); diff != "" {
			t.Errorf("%s (-postgres +sqlite)\n%s", name, diff)
		}
	}
}
