package session_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// sessionRow inserts one session; times are seconds from now.
type sessionRow struct {
	id, user, state string
	created, ends   int
}

// operated runs a test on each database with a manager of these options.
func operated(t *testing.T, o session.Options, test func(t *testing.T, m *session.Manager, insert func(...sessionRow))) {
	t.Helper()
	for name, open := range map[string]func(t *testing.T) *sqlx.DB{
		"postgres": func(t *testing.T) *sqlx.DB { return pgtest.Open(t, schematest.Database(t)) },
		"sqlite": func(t *testing.T) *sqlx.DB {
			db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=synchronous(OFF)&_pragma=busy_timeout(5000)")
			if err != nil {
				t.Fatal(err)
			}
			db.SetMaxOpenConns(1)
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			schematest.Migrate(t, db)
			m, err := session.New(db, nil, o)
			if err != nil {
				t.Fatal(err)
			}
			at := func(seconds int) string {
				if name == "sqlite" {
					return fmt.Sprintf("strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '%+d seconds')", seconds)
				}
				return fmt.Sprintf("now() + interval '%d seconds'", seconds)
			}
			test(t, m, func(rows ...sessionRow) {
				t.Helper()
				for _, r := range rows {
					chain, ends := "NULL", "NULL"
					if r.state == "open" || r.state == "ending" || r.state == "closed" {
						chain, ends = "'"+string(chainID(r.id))+"'", at(r.ends)
					}
					query := fmt.Sprintf(`INSERT INTO automation_sessions (id, session_id, model_id, owner_id, user_id, charged_at, duration, state, created_at, ends_at, next_at)
						VALUES ('%[1]s', %[2]s, 'm', '%[3]s', '%[3]s', %[5]s, 3600, '%[4]s', %[5]s, %[6]s, %[5]s)`, r.id, chain, r.user, r.state, at(r.created), ends)
					if _, err := db.ExecContext(t.Context(), query); err != nil {
						t.Fatal(err)
					}
				}
			})
		})
	}
}

// chainID makes a session's id on the chain of a row's.
func chainID(row string) session.ID {
	id, err := session.ParseID(fmt.Sprintf("%064x", row))
	if err != nil {
		panic(err)
	}
	return id
}

func TestListAll_FiltersAndPages(t *testing.T) {
	t.Parallel()
	operated(t, session.Options{}, func(t *testing.T, m *session.Manager, insert func(...sessionRow)) {
		insert(sessionRow{"a", "ann", "open", -50, 600}, sessionRow{"b", "bob", "open", -40, 600}, sessionRow{"c", "ann", "unknown", -30, 0},
			sessionRow{"d", "ann", "closed", -30, -10}, sessionRow{"e", "", "failed", -10, 0})
		for name, test := range map[string]struct {
			filter session.Filter
			want   string
		}{
			"all":                      {session.Filter{}, "e d c b a"},
			"of a user":                {session.Filter{UserID: "ann"}, "d c a"},
			"of a state":               {session.Filter{State: "open"}, "b a"},
			"of both":                  {session.Filter{UserID: "ann", State: "unknown"}, "c"},
			"of no state":              {session.Filter{State: "nonsense"}, ""},
			"before a row":             {session.Filter{Before: "d"}, "c b a"},
			"before a row of one time": {session.Filter{Before: "c"}, "b a"},
			"before no row":            {session.Filter{Before: "nonsense"}, ""},
		} {
			page, next, err := m.ListAll(t.Context(), test.filter)
			if err != nil || next != "" {
				t.Errorf("%s: next %q, %v", name, next, err)
			}
			var got []string
			for _, r := range page {
				got = append(got, r.RowID)
			}
			if diff := cmp.Diff(strings.Fields(test.want), got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		var paged []string
		for before := ""; ; {
			page, next, err := m.ListAll(t.Context(), session.Filter{Limit: 2, Before: before})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				paged = append(paged, r.RowID)
			}
			if before = next; next == "" {
				break
			}
		}
		if got := strings.Join(paged, " "); got != "e d c b a" {
			t.Errorf("pages of two: %s", got)
		}
	})
}

func TestEndAny_EndsAnOpenSession(t *testing.T) {
	t.Parallel()
	operated(t, session.Options{}, func(t *testing.T, m *session.Manager, insert func(...sessionRow)) {
		insert(sessionRow{"a", "ann", "open", -50, 600}, sessionRow{"b", "ann", "closed", -50, -10})
		for range 2 {
			if err := m.EndAny(t.Context(), chainID("a")); err != nil {
				t.Fatal(err)
			}
		}
		page, _, err := m.ListAll(t.Context(), session.Filter{State: "ending"})
		if err != nil || len(page) != 1 || page[0].Reason != "operator" {
			t.Errorf("ended: %+v, %v", page, err)
		}
		for _, id := range []session.ID{chainID("b"), chainID("x")} {
			if err := m.EndAny(t.Context(), id); !errors.Is(err, session.ErrUnmanaged) {
				t.Errorf("%s: %v", id, err)
			}
		}
	})
}

func TestListAll_ReadsByIndex(t *testing.T) {
	t.Parallel()
	db := migrated(t, pgtest.Open(t, schematest.Database(t)))
	fill(t, db, 20_000)
	if _, err := db.ExecContext(t.Context(), `VACUUM ANALYZE automation_sessions`); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		`SELECT id FROM automation_sessions ORDER BY created_at DESC, id DESC LIMIT 101`,
		`SELECT id FROM automation_sessions WHERE state = 'unknown' ORDER BY created_at DESC, id DESC LIMIT 101`,
		`SELECT id FROM automation_sessions WHERE created_at <= (SELECT created_at FROM automation_sessions WHERE id = 'id-9000')
			AND (created_at < (SELECT created_at FROM automation_sessions WHERE id = 'id-9000') OR id < 'id-9000') ORDER BY created_at DESC, id DESC LIMIT 101`,
	} {
		var plan []string
		if err := db.SelectContext(t.Context(), &plan, `EXPLAIN `+query); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan") || strings.Contains(text, "Sort") && !strings.Contains(text, "Incremental Sort") {
			t.Errorf("%s\n%s", query, text)
		}
	}
}
