package rollout

import (
	"encoding/json"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	// A receiver is registered anew after registerEvery, and forgotten by the
	// outbox when no replica has known it for receiverKept.
	registerEvery = time.Hour
	receiverKept  = 7 * 24 * time.Hour
)

// register makes a receiver known to whoever writes events.
func register(tx *sqldb.Tx, receiver string) error {
	_, err := tx.Exec(`INSERT INTO automation_rollout_receivers (name, seen_at) VALUES ($1, {now})
		ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at`, receiver)
	return err
}

// enqueue puts an event into the outbox, once for each receiver, in the
// transaction that made it.
func enqueue(tx *sqldb.Tx, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO automation_rollout_outbox (receiver, rollout, seq, body, created_at, next_at)
		SELECT name, CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), {now}, {now}
		FROM automation_rollout_receivers WHERE seen_at > {in $4}`, e.Rollout, e.Seq, string(body), -receiverKept.Seconds())
	return err
}

// letter is a message of the outbox.
type letter struct {
	Rollout  string `db:"rollout"`
	Seq      int64  `db:"seq"`
	Body     string `db:"body"`
	Attempts int    `db:"attempts"`
}

// pick takes a receiver's oldest letter about some rollout, if one is due, and
// keeps others from it for a while. Letters about one rollout go one after the
// other.
func pick(tx *sqldb.Tx, receiver string, lease time.Duration) (*letter, error) {
	var l letter
	found, err := sqldb.Optional(tx.Get(&l, `SELECT rollout, seq, body, attempts FROM automation_rollout_outbox AS o
		WHERE receiver = $1 AND sent_at IS NULL AND next_at <= {now} AND NOT EXISTS (
			SELECT 1 FROM automation_rollout_outbox AS p
			WHERE p.receiver = o.receiver AND p.rollout = o.rollout AND p.seq < o.seq AND p.sent_at IS NULL)
		ORDER BY next_at LIMIT 1 {skip}`, receiver))
	if !found {
		return nil, err
	}
	l.Attempts++
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET attempts = $4, next_at = {in $5} WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
		receiver, l.Rollout, l.Seq, l.Attempts, lease.Seconds())
	return &l, err
}

// mark notes how sending went.
func mark(tx *sqldb.Tx, receiver string, l letter, failed error, again time.Duration) (err error) {
	if failed == nil {
		_, err = tx.Exec(`UPDATE automation_rollout_outbox SET sent_at = {now}, last_error = '' WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
			receiver, l.Rollout, l.Seq)
		return err
	}
	text := failed.Error()
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET last_error = $4, next_at = {in $5}
		WHERE receiver = $1 AND rollout = $2 AND seq = $3 AND sent_at IS NULL`, receiver, l.Rollout, l.Seq, text[:min(len(text), 500)], again.Seconds())
	return err
}
