package rollout

import (
	"encoding/json"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

const (
	// A receiver is registered again after registerEvery, and gets no more
	// events when no replica has known it for receiverKept.
	registerEvery = time.Hour
	receiverKept  = 7 * 24 * time.Hour
)

// registerReceiver makes a receiver known to every process that writes events.
func registerReceiver(tx *sqldb.Tx, receiver string) error {
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

// message is a row of the outbox.
type message struct {
	Rollout  string `db:"rollout"`
	Seq      int64  `db:"seq"`
	Body     string `db:"body"`
	Attempts int    `db:"attempts"`
}

// claimNext takes a receiver's oldest message about some rollout, if one is due,
// and keeps other replicas from it for a while. Messages about one rollout are
// sent one after the other.
func claimNext(tx *sqldb.Tx, receiver string, lease time.Duration) (*message, error) {
	var m message
	found, err := sqldb.Optional(tx.Get(&m, `SELECT rollout, seq, body, attempts FROM automation_rollout_outbox AS o
		WHERE receiver = $1 AND sent_at IS NULL AND next_at <= {now} AND NOT EXISTS (
			SELECT 1 FROM automation_rollout_outbox AS p
			WHERE p.receiver = o.receiver AND p.rollout = o.rollout AND p.seq < o.seq AND p.sent_at IS NULL)
		ORDER BY next_at LIMIT 1 {skip}`, receiver))
	if !found {
		return nil, err
	}
	m.Attempts++
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET attempts = $4, next_at = {in $5} WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
		receiver, m.Rollout, m.Seq, m.Attempts, lease.Seconds())
	return &m, err
}

// recordDelivery notes how sending went; after a failure the message is due
// again after again.
func recordDelivery(tx *sqldb.Tx, receiver string, m message, failed error, again time.Duration) (err error) {
	if failed == nil {
		_, err = tx.Exec(`UPDATE automation_rollout_outbox SET sent_at = {now}, last_error = '' WHERE receiver = $1 AND rollout = $2 AND seq = $3`,
			receiver, m.Rollout, m.Seq)
		return err
	}
	_, err = tx.Exec(`UPDATE automation_rollout_outbox SET last_error = $4, next_at = {in $5}
		WHERE receiver = $1 AND rollout = $2 AND seq = $3 AND sent_at IS NULL`, receiver, m.Rollout, m.Seq, text.Truncate(failed.Error(), 500), again.Seconds())
	return err
}
