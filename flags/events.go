package flags

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Event is one line of the audit, which the table's triggers write, whoever
// changes a flag and however.
type Event struct {
	ID      int64           `json:"id"`
	Flag    string          `json:"feature_name"`
	Version int64           `json:"version"`
	Action  string          `json:"action"` // insert, update, delete
	At      time.Time       `json:"changed_at"`
	By      string          `json:"changed_by"`
	Before  json.RawMessage `json:"before"` // an object of the columns that changed
	After   json.RawMessage `json:"after"`
}

// eventsQuery follows renames back: an event that gave the flag its name says
// which it had before, and up to when.
const eventsQuery = `
WITH RECURSIVE names(name, until) AS (
	SELECT CAST($1 AS text), CAST(9223372036854775807 AS bigint)
	UNION
	SELECT e.before ->> 'feature_name', e.id FROM names AS n JOIN feature_flag_events AS e ON e.feature_name = n.name AND e.id < n.until
	WHERE e.action = 'update' AND e.before ->> 'feature_name' IS NOT NULL
)
SELECT e.id, e.feature_name, e.version, e.action, e.changed_at, e.changed_by, e.before, e.after
FROM (SELECT name, max(until) AS until FROM names GROUP BY name) AS n JOIN feature_flag_events AS e ON e.feature_name = n.name AND e.id < n.until
WHERE CAST($2 AS bigint) = 0 OR e.id < $2
ORDER BY e.id DESC LIMIT $3`

// maxEvents is the most events that one call returns.
const maxEvents = 1000

// Events returns the audit of one flag, that under the names that it had before
// included, the newest first: at most limit events
// (1 to 1,000; beyond that, the nearest) with ids below
// before; with 0, the newest there are.
func (s *Store) Events(ctx context.Context, name string, limit int, before int64) ([]Event, error) {
	list, err := sqldb.Read(ctx, s.db, "flags.events", func(tx *sqldb.Tx) ([]Event, error) {
		var rows []struct {
			ID      int64      `db:"id"`
			Flag    string     `db:"feature_name"`
			Version int64      `db:"version"`
			Action  string     `db:"action"`
			At      sqldb.Time `db:"changed_at"`
			By      string     `db:"changed_by"`
			Before  string     `db:"before"`
			After   string     `db:"after"`
		}
		err := tx.Select(&rows, eventsQuery, name, before, min(max(limit, 1), maxEvents))
		list := make([]Event, len(rows))
		for i, r := range rows {
			list[i] = Event{r.ID, r.Flag, r.Version, r.Action, r.At.Time, r.By, json.RawMessage(r.Before), json.RawMessage(r.After)}
		}
		return list, err
	})
	if err != nil {
		return nil, fmt.Errorf("flags: events(%q): %w", name, err)
	}
	return list, nil
}
