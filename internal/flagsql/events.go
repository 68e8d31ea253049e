package flagsql

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Event is one row of the audit. The table's triggers write it for every change
// of a flag. Record writes it for other actions of operators.
type Event struct {
	ID      int64           `json:"id" db:"id"`
	Flag    string          `json:"feature_name" db:"feature_name"`
	Version int64           `json:"version" db:"version"`
	Action  string          `json:"action" db:"action"` // insert, update or delete, or an Action
	At      sqldb.Time      `json:"changed_at" db:"changed_at"`
	By      string          `json:"changed_by" db:"changed_by"`
	Before  json.RawMessage `json:"before" db:"-"` // an object of the columns that changed
	After   json.RawMessage `json:"after" db:"-"`
}

// Audit reads the audit, and records operators' actions in it.
type Audit struct{ db *sqldb.DB }

// NewAudit returns an Audit on the host's pool.
func NewAudit(pool *sqlx.DB, o sqldb.Options) Audit { return Audit{sqldb.New(pool, o)} }

// maxEvents limits how many events one call of Events returns.
const maxEvents = 1000

// Events returns the newest events of one flag, newest first. They include events
// from before a rename. It returns at most limit events, 1 to 1,000; a limit
// outside these bounds is treated as the nearest bound. Unless before is 0, it
// returns only events with ids below before.
func (a Audit) Events(ctx context.Context, name string, limit int, before int64) ([]Event, error) {
	limit = min(max(limit, 1), maxEvents)
	if before <= 0 {
		before = math.MaxInt64
	}
	list, err := sqldb.Read(ctx, a.db, "flags.events", func(tx *sqldb.Tx) ([]Event, error) {
		list := []Event{}
		for until := int64(math.MaxInt64); len(list) < limit; {
			from, oldName, err := lastRename(tx, name, until)
			if err != nil {
				return nil, err
			}
			if from < before {
				if list, err = appendEvents(tx, list, name, from, min(until, before), limit); err != nil {
					return nil, err
				}
			}
			if oldName == "" {
				break
			}
			name, until = oldName, from
		}
		return list, nil
	})
	if err != nil {
		return nil, fmt.Errorf("flags: events(%q): %w", name, err)
	}
	return list, nil
}

const lastRenameQuery = `SELECT id, before ->> 'feature_name' AS old_name FROM feature_flag_events
	WHERE feature_name = $1 AND id < $2 AND action = 'update' AND before ->> 'feature_name' IS NOT NULL ORDER BY id DESC LIMIT 1`

// lastRename returns the id of the last event before until that renamed a flag to
// name, and the flag's old name; 0 and "" if there is no such event.
func lastRename(tx *sqldb.Tx, name string, until int64) (id int64, oldName string, err error) {
	var r struct {
		ID      int64  `db:"id"`
		OldName string `db:"old_name"`
	}
	_, err = sqldb.Optional(tx.Get(&r, lastRenameQuery, name, until))
	return r.ID, r.OldName, err
}

const eventsQuery = `SELECT id, feature_name, version, action, changed_at, changed_by, before, after FROM feature_flag_events
	WHERE feature_name = $1 AND id >= $2 AND id < $3 ORDER BY id DESC LIMIT $4`

// appendEvents appends the newest events of a name with from <= id < until, until
// the list has limit events.
func appendEvents(tx *sqldb.Tx, list []Event, name string, from, until int64, limit int) ([]Event, error) {
	var rows []struct {
		Event
		Before string `db:"before"`
		After  string `db:"after"`
	}
	if err := tx.Select(&rows, eventsQuery, name, from, until, limit-len(list)); err != nil {
		return nil, err
	}
	for _, r := range rows {
		r.Event.Before, r.Event.After = json.RawMessage(r.Before), json.RawMessage(r.After)
		list = append(list, r.Event)
	}
	return list, nil
}

// Action is the audit's name for what an operator does other than changing a
// flag.
type Action string

// The actions.
const (
	ActionEndSession Action = "end_session"
	ActionCleanup    Action = "cleanup"
)

// Record writes into the flag's audit that actor takes an action. Call it before
// the action. after describes the object of the action, such as
// {"session_id": "0x…"}.
func (a Audit) Record(ctx context.Context, flag string, action Action, actor string, after map[string]any) error {
	text, err := json.Marshal(after)
	if err != nil {
		return err
	}
	_, err = sqldb.Write(ctx, a.db, "flags.record_action", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
			VALUES ($1, COALESCE((SELECT version FROM feature_flags WHERE feature_name = $1), 0), $2, {now}, $3, {json $4}, {json $5})`,
			flag, string(action), actor, "{}", string(text))
	})
	return err
}
