// Package schema brings the module's tables into a database and out again.
//
// The migrations are plain SQL files, so any migration tool can apply them as
// well. [Migrate] runs each in a transaction of its own under one lock: ten
// replicas may call it at once at their start, and one killed in the middle
// leaves nothing half done.
//
//	applied, err := schema.Migrate(ctx, db)
//
// A table feature_flags or user_automation_settings that the host has already
// is adopted with its data; see docs/decisions/0004-adopted-tables.md.
package schema

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

//go:embed postgres/*.sql sqlite/*.sql
var files embed.FS

// ErrNewer says that the database has migrations that this binary does not
// know, which is fine to run on (they only add) but not to migrate down from.
var ErrNewer = errors.New("the database is newer than this program")

// ErrUnavailable says that the database could not be used; nothing was changed.
var ErrUnavailable = sqldb.ErrUnavailable

// Migration is one step of the schema.
type Migration struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	AppliedAt time.Time `json:"applied_at"` // zero: not applied
}

// timeout bounds one migration, waiting for another replica's included.
const timeout = 2 * time.Minute

const table = `CREATE TABLE IF NOT EXISTS automation_schema_migrations (
	version integer PRIMARY KEY, name text NOT NULL, applied_at %s NOT NULL)`

// Migrate applies what is missing, in order, and returns what it applied. It
// is safe to call from many processes at once and on every start. Each
// migration waits at most two minutes for locks and for its own work.
func Migrate(ctx context.Context, pool *sqlx.DB) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	var applied []Migration
	for {
		m, err := sqldb.Write(ctx, db, "schema.migrate", func(tx *sqldb.Tx) (*Migration, error) {
			have, err := begin(tx)
			if err != nil {
				return nil, err
			}
			for _, m := range known(db.SQLite()) {
				if _, ok := have[m.Version]; ok {
					continue
				}
				if err := run(tx, m, "up"); err != nil {
					return nil, err
				}
				if _, err := tx.Exec(`INSERT INTO automation_schema_migrations (version, name, applied_at) VALUES ($1, $2, {now})`, m.Version, m.Name); err != nil {
					return nil, err
				}
				return &m, nil
			}
			return nil, nil
		})
		if err != nil {
			return applied, fmt.Errorf("schema: migrate: %w", err)
		}
		if m == nil {
			return applied, nil
		}
		applied = append(applied, *m)
	}
}

// Down takes back the last steps migrations, the newest first, and returns
// what it took back. It deletes the data that the tables hold.
func Down(ctx context.Context, pool *sqlx.DB, steps int) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{Timeout: timeout})
	var undone []Migration
	for len(undone) < steps {
		m, err := sqldb.Write(ctx, db, "schema.down", func(tx *sqldb.Tx) (*Migration, error) {
			have, err := begin(tx)
			if err != nil || len(have) == 0 {
				return nil, err
			}
			last := 0
			for v := range have {
				last = max(last, v)
			}
			for _, m := range known(db.SQLite()) {
				if m.Version != last {
					continue
				}
				if err := run(tx, m, "down"); err != nil {
					return nil, err
				}
				_, err := tx.Exec(`DELETE FROM automation_schema_migrations WHERE version = $1`, m.Version)
				return &m, err
			}
			return nil, fmt.Errorf("%w: migration %d is not among ours; take it back with the program that applied it", ErrNewer, last)
		})
		if err != nil {
			return undone, fmt.Errorf("schema: down: %w", err)
		}
		if m == nil {
			break
		}
		undone = append(undone, *m)
	}
	return undone, nil
}

// Status lists all migrations that this program or the database knows, oldest
// first. It changes nothing.
func Status(ctx context.Context, pool *sqlx.DB) ([]Migration, error) {
	db := sqldb.New(pool, sqldb.Options{})
	list, err := sqldb.Read(ctx, db, "schema.status", func(tx *sqldb.Tx) ([]Migration, error) {
		have, err := applied(tx)
		if err != nil {
			return nil, err
		}
		list := known(db.SQLite())
		for i, m := range list {
			if a, ok := have[m.Version]; ok {
				list[i].AppliedAt = a.AppliedAt
				delete(have, m.Version)
			}
		}
		for v := len(list) + 1; len(have) > 0 && v < 1<<16; v++ {
			if a, ok := have[v]; ok {
				list = append(list, a)
				delete(have, v)
			}
		}
		return list, nil
	})
	if err != nil {
		return nil, fmt.Errorf("schema: status: %w", err)
	}
	return list, nil
}

// Pending tells whether Migrate would do something.
func Pending(ctx context.Context, pool *sqlx.DB) (bool, error) {
	list, err := Status(ctx, pool)
	for _, m := range list {
		if m.AppliedAt.IsZero() {
			return true, err
		}
	}
	return false, err
}

// begin takes the lock and reads what has been applied.
func begin(tx *sqldb.Tx) (map[int]Migration, error) {
	if err := tx.Lock("schema"); err != nil {
		return nil, fmt.Errorf("another process is migrating: %w", err)
	}
	kind := "timestamptz"
	if tx.SQLite() {
		kind = "text"
	}
	if _, err := tx.Exec(fmt.Sprintf(table, kind)); err != nil {
		return nil, err
	}
	return applied(tx)
}

func applied(tx *sqldb.Tx) (map[int]Migration, error) {
	exists := `SELECT count(*) FROM pg_class WHERE oid = to_regclass('automation_schema_migrations')`
	if tx.SQLite() {
		exists = `SELECT count(*) FROM sqlite_master WHERE name = 'automation_schema_migrations'`
	}
	var n int
	if err := tx.Get(&n, exists); err != nil || n == 0 {
		return nil, err
	}
	var rows []struct {
		Version   int        `db:"version"`
		Name      string     `db:"name"`
		AppliedAt sqldb.Time `db:"applied_at"`
	}
	if err := tx.Select(&rows, `SELECT version, name, applied_at FROM automation_schema_migrations`); err != nil {
		return nil, err
	}
	have := make(map[int]Migration, len(rows))
	for _, r := range rows {
		have[r.Version] = Migration{Version: r.Version, Name: r.Name, AppliedAt: r.AppliedAt.Time}
	}
	return have, nil
}

func dir(lite bool) string {
	if lite {
		return "sqlite"
	}
	return "postgres"
}

// known lists the embedded migrations, oldest first.
func known(lite bool) []Migration {
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
	return list
}

func run(tx *sqldb.Tx, m Migration, way string) error {
	name := fmt.Sprintf("%s/%04d_%s.%s.sql", dir(tx.SQLite()), m.Version, m.Name, way)
	text, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	for _, s := range statements(string(text)) {
		if err := tx.Script(s); err != nil {
			return fmt.Errorf("%s, line %d: %w", name, 1+strings.Count(string(text)[:strings.Index(string(text), s)], "\n"), err)
		}
	}
	return nil
}

// A statement of a migration ends with a semicolon at the end of a line, but
// for those inside $$ … $$ or a trigger's BEGIN … END.
var (
	dollars = regexp.MustCompile(`\$\$`)
	opens   = regexp.MustCompile(`(?i)^BEGIN$`)
	closes  = regexp.MustCompile(`(?i)^END;$`)
)

// statements splits a file, because a driver may send only one at a time.
func statements(text string) []string {
	var list []string
	var begun, quoted, trigger bool
	start := 0
	for pos := 0; pos < len(text); {
		end := strings.IndexByte(text[pos:], '\n') + pos + 1
		if end == pos {
			end = len(text)
		}
		line := strings.TrimSpace(text[pos:end])
		code, _, _ := strings.Cut(line, "--")
		code = strings.TrimSpace(code)
		if code != "" && !begun {
			begun, start = true, pos
		}
		if len(dollars.FindAllString(code, -1))%2 == 1 {
			quoted = !quoted
		}
		if !quoted {
			trigger = (trigger || opens.MatchString(code)) && !closes.MatchString(code)
		}
		pos = end
		if begun && !quoted && !trigger && strings.HasSuffix(code, ";") {
			list, begun = append(list, strings.TrimSpace(text[start:pos])), false
		}
	}
	return list
}
