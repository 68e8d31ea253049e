package flagsql_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func TestAudit_RecordsOperatorsActions(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		if _, err := pool.ExecContext(t.Context(), `UPDATE feature_flags SET notice = 'one' WHERE feature_name = 'automation'`); err != nil {
			t.Fatal(err)
		}
		audit := flagsql.NewAudit(pool, sqldb.Options{})
		if err := audit.Record(t.Context(), "automation", flagsql.ActionEndSession, "admin:ann", map[string]any{"session_id": "0x1"}); err != nil {
			t.Fatal(err)
		}
		if err := audit.Record(t.Context(), "absent", flagsql.ActionCleanup, "admin:bob", map[string]any{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, flag := range []string{"automation", "absent"} {
			events, err := audit.Events(t.Context(), flag, 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				got = append(got, fmt.Sprint(e.Flag, " ", e.Version, " ", e.Action, " ", e.By, " ", string(e.Before), " ", strings.ReplaceAll(string(e.After), " ", "")))
			}
		}
		want := []string{`automation 2 end_session admin:ann {} {"session_id":"0x1"}`, "absent 0 cleanup admin:bob {} {}"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the newest events (-want +got):\n%s", diff)
		}
	})
}
