package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

const (
	// Each replica renews the registration of its receivers every registerEvery.
	// A receiver gets no more messages receiverKept after the last renewal.
	registerEvery = time.Hour
	receiverKept  = 7 * 24 * time.Hour
	// messageKept is how long a message is retried. A later one would look like news.
	messageKept = 3 * 24 * time.Hour
)

// registerReceiver registers a receiver or renews its registration: every process
// then writes messages for it. After receiverKept without a renewal, the receiver
// is registered as a new one, which gets no older changes and feedback.
func registerReceiver(tx *sqldb.Tx, receiver string) error {
	_, err := tx.Exec(`INSERT INTO automation_rollout_receivers AS r (name, seen_at, registered_at) VALUES ($1, {now}, {now})
		ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at,
			registered_at = CASE WHEN r.seen_at > {in $2} THEN coalesce(r.registered_at, excluded.registered_at) ELSE excluded.registered_at END`,
		receiver, -receiverKept.Seconds())
	return err
}

// payload is the body of a message. Its type is "rollout." and the event's
// action, "flag.changed", or "feedback.created".
type payload struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"` // when it happened
	Data      any       `json:"data"`
}

// enqueue puts an event into the outbox, once for each receiver, in the
// transaction that made it.
func enqueue(tx *sqldb.Tx, e Event) error {
	body, err := json.Marshal(payload{"rollout." + string(e.Action), e.At.Time, e})
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at)
		SELECT name, CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), {now}, {now}
		FROM automation_rollout_receivers WHERE seen_at > {in $4}`, e.Rollout, e.Seq, string(body), -receiverKept.Seconds())
	return err
}

// flagChange is the data of a "flag.changed": a change that no rollout made.
// The lists of users are left out; UsersChanged says that one of them changed.
type flagChange struct {
	Flag         string         `json:"flag"`
	Version      int64          `json:"version"`
	Action       string         `json:"action"` // insert, update or delete
	Actor        string         `json:"actor"`
	Before       map[string]any `json:"before"` // only what changed
	After        map[string]any `json:"after"`
	UsersChanged bool           `json:"users_changed"`
}

// flagPrefix and the flag's name are the outbox's column rollout of messages about
// a flag.
const flagPrefix = "flag:"

// enqueueFlagChanges puts the changes of flags since a receiver's registration,
// of the last day at most, into its outbox, unless they are there already.
func enqueueFlagChanges(tx *sqldb.Tx, receiver string) error {
	var rows []struct {
		ID      int64      `db:"id"`
		Flag    string     `db:"feature_name"`
		Version int64      `db:"version"`
		Action  string     `db:"action"`
		At      sqldb.Time `db:"changed_at"`
		Actor   string     `db:"changed_by"`
		Before  string     `db:"before"`
		After   string     `db:"after"`
	}
	if err := tx.Select(&rows, `SELECT e.id, e.feature_name, e.version, e.action, e.changed_at, e.changed_by, e.before, e.after
		FROM automation_rollout_receivers AS r JOIN feature_flag_events AS e ON e.changed_at >= r.registered_at
		WHERE r.name = $1 AND e.changed_at > {in -86400} AND e.changed_by NOT LIKE 'rollout:%' AND e.action IN ('insert', 'update', 'delete') AND NOT EXISTS (
			SELECT 1 FROM automation_rollout_outbox AS o WHERE o.receiver = $1 AND o.rollout = '`+flagPrefix+`' || e.feature_name AND o.seq = e.id)
		ORDER BY e.id LIMIT 100`, receiver); err != nil {
		return err
	}
	for _, r := range rows {
		change := flagChange{Flag: r.Flag, Version: r.Version, Action: r.Action, Actor: r.Actor}
		if err := json.Unmarshal([]byte(r.Before), &change.Before); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(r.After), &change.After); err != nil {
			return err
		}
		for _, fields := range []map[string]any{change.Before, change.After} {
			for _, list := range []string{"enabled_user_ids", "disabled_user_ids"} {
				if _, ok := fields[list]; ok {
					change.UsersChanged = true
					delete(fields, list)
				}
			}
		}
		body, err := json.Marshal(payload{"flag.changed", r.At.Time, change})
		if err != nil {
			return err
		}
		if err := insertMessage(tx, receiver, flagPrefix+r.Flag, r.ID, body); err != nil {
			return err
		}
	}
	return nil
}

// feedbackCreated is the data of a "feedback.created". It has neither the user nor
// the text, because a receiver may be a chat room.
type feedbackCreated struct {
	ID     int64  `json:"id" db:"id"`
	Stage  string `json:"stage" db:"stage"`
	Rating *int   `json:"rating" db:"rating"` // 1 to 5, or null
}

// feedbackTopic is the outbox's column rollout of messages about feedback.
const feedbackTopic = "feedback:"

// enqueueFeedback puts the feedback since a receiver's registration, of the last
// day at most, into its outbox, unless it is there already.
func enqueueFeedback(tx *sqldb.Tx, receiver string) error {
	var rows []struct {
		feedbackCreated
		At sqldb.Time `db:"created_at"`
	}
	if err := tx.Select(&rows, `SELECT f.id, f.stage, f.rating, f.created_at
		FROM automation_rollout_receivers AS r JOIN automation_feedback AS f ON f.created_at >= r.registered_at
		WHERE r.name = $1 AND f.created_at > {in -86400} AND NOT EXISTS (
			SELECT 1 FROM automation_rollout_outbox AS o WHERE o.receiver = $1 AND o.rollout = '`+feedbackTopic+`' AND o.seq = f.id)
		ORDER BY f.id LIMIT 100`, receiver); err != nil {
		return err
	}
	for _, r := range rows {
		body, err := json.Marshal(payload{"feedback.created", r.At.Time, r.feedbackCreated})
		if err != nil {
			return err
		}
		if err := insertMessage(tx, receiver, feedbackTopic, r.ID, body); err != nil {
			return err
		}
	}
	return nil
}

// insertMessage puts a message into a receiver's outbox, unless it is there
// already.
func insertMessage(tx *sqldb.Tx, receiver, rollout string, seq int64, body []byte) error {
	_, err := tx.Exec(`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at)
		VALUES ($1, $2, $3, $4, {now}, {now}) ON CONFLICT DO NOTHING`, receiver, rollout, seq, string(body))
	return err
}

// message is a row of the outbox.
type message struct {
	Rollout  string `db:"rollout"`
	Seq      int64  `db:"seq"`
	Body     string `db:"body"`
	Attempts int    `db:"attempts"`
}

// id identifies the message to its receiver. It has no dots, because they separate
// the parts of what is signed.
func (m message) id() string {
	hash := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", m.Rollout, m.Seq))
	return "msg_" + hex.EncodeToString(hash[:12])
}

// claimNext returns a receiver's next message that is due, or nil, and keeps other
// replicas from it for the length of the lease. A message is not due before all
// older ones about the same rollout are sent.
func claimNext(tx *sqldb.Tx, receiver string, lease time.Duration) (*message, error) {
	var m message
	found, err := sqldb.Optional(tx.Get(&m, `SELECT rollout, seq, body, attempts FROM automation_rollout_outbox AS o
		WHERE receiver = $1 AND sent_at IS NULL AND next_at <= {now} AND created_at > {in $2} AND NOT EXISTS (
			SELECT 1 FROM automation_rollout_outbox AS p
			WHERE p.receiver = o.receiver AND p.rollout = o.rollout AND p.seq < o.seq AND p.sent_at IS NULL AND p.created_at > {in $2})
		ORDER BY next_at LIMIT 1 {skip}`, receiver, -messageKept.Seconds()))
	if !found {
		return nil, err
	}
	m.Attempts++
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET attempts = $4, next_at = {in $5} WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
		receiver, m.Rollout, m.Seq, m.Attempts, lease.Seconds())
	return &m, err
}

// recordDelivery records that a message was sent or, with a sendErr, that it is due
// again after retryAfter.
func recordDelivery(tx *sqldb.Tx, receiver string, m message, sendErr error, retryAfter time.Duration) (err error) {
	if sendErr == nil {
		_, err = tx.Exec(`UPDATE automation_rollout_outbox SET sent_at = {now}, last_error = '' WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
			receiver, m.Rollout, m.Seq)
		return err
	}
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET last_error = $4, next_at = {in $5}
		WHERE receiver = $1 AND rollout = $2 AND seq = $3 AND sent_at IS NULL`, receiver, m.Rollout, m.Seq, text.Truncate(sendErr.Error(), 500), retryAfter.Seconds())
	return err
}
