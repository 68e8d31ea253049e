package flagsql

import (
	"math"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestAudit_EventsUsesIndexes(t *testing.T) {
	pool := pgtest.Open(t, schematest.Database(t))
	for _, s := range []string{
		`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
		SELECT 'flag ' || i % 1000, i, 'update', now() - make_interval(secs => i), 'x', '{"enabled": true}', '{"enabled": false}' FROM generate_series(1, 50000) AS i`,
		`VACUUM ANALYZE feature_flag_events`,
	} {
		if _, err := pool.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for query, args := range map[string][]any{
		lastRenameQuery: {"flag 7", math.MaxInt64},
		eventsQuery:     {"flag 7", 0, math.MaxInt64, 100},
	} {
		var plan []string
		if err := pool.SelectContext(t.Context(), &plan, `EXPLAIN `+query, args...); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "Seq Scan") || !strings.Contains(text, "feature_flag_events_") {
			t.Errorf("want a plan with an index of feature_flag_events and no Seq Scan for\n%s\nbut the plan is\n%s", query, text)
		}
	}
}
