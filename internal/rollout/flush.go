package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// beginMinute tells the recorders which minute it is, because they do not read a
// clock. In a new minute it deletes the failures that no longer count.
func (c *Controller) beginMinute(ctx context.Context) error {
	minute := uint64(c.now().Unix() / 60) //nolint:gosec // positive since 1970
	for _, r := range *c.recorders.Load() {
		r.users.minute.Store(minute)
	}
	if minute == c.minute {
		return nil
	}
	_, err := sqldb.Write(ctx, c.db, "rollout.forget_users", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`DELETE FROM automation_rollout_failures WHERE minute < {in $1}`, -failuresKept)
	})
	if err == nil {
		c.minute = minute
	}
	return err
}

// batch is what a recorder has to flush.
type batch struct {
	run     *runCounters
	counts  [arms]Counts
	pending map[userFailure]timing
}

// takeBatch takes what a recorder has counted, which is nothing for a nil one. The
// caller writes the batch and then calls done, or undo if that failed.
func (r *Recorder) takeBatch() batch {
	if r == nil {
		return batch{}
	}
	b := batch{run: r.run.Load()}
	if b.run != nil {
		b.pending = b.run.takePending()
		for a := range arms {
			b.counts[a] = b.run.arms[a].counts()
		}
	}
	return b
}

// write writes the batch, if there is anything new in it.
func (b batch) write(tx *sqldb.Tx, name, instanceID string) error {
	if b.run == nil {
		return nil
	}
	for a := range arms {
		if b.counts[a] == b.run.flushed[a] {
			continue
		}
		if err := writeCounts(tx, name, instanceID, b.run.stageRun, a, b.counts[a], false); err != nil {
			return err
		}
	}
	return b.writeFailures(tx, name, instanceID)
}

// writeFailures writes the failing users, and adds those that count to the
// process's counts. Writing a user again in the same minute adds nothing.
func (b batch) writeFailures(tx *sqldb.Tx, name, instanceID string) error {
	var n Counts
	for kind := range failureKinds {
		timings := map[string]timing{} // by the user's hash
		for f, t := range b.pending {
			if f.kind == kind {
				timings[f.hash()] = t
			}
		}
		if len(timings) == 0 {
			continue
		}
		users := slices.Sorted(maps.Keys(timings)) // in one order, so that replicas cannot deadlock
		counted, err := insertFailures(tx, name, b.run.id, kind, users)
		if err != nil {
			return err
		}
		for _, user := range counted {
			n.addFailure(kind, timings[user])
		}
	}
	if n.Outcomes == 0 {
		return nil
	}
	return writeCounts(tx, name, instanceID+failuresSuffix, b.run.stageRun, ArmExposed, n, true)
}

// addFailure adds an outcome that failed or was slow.
func (c *Counts) addFailure(kind failureKind, t timing) {
	c.Outcomes++
	switch kind {
	case kindProvider:
		c.ProviderFailures++
		c.Failures++
	case kindFailure:
		c.Failures++
	case kindSlow:
		c.Slow++
	}
	c.LatencyUS += t.latencyUS
	c.DatabaseUS += t.databaseUS
	if t.databaseSlow {
		c.DatabaseSlow++
	}
}

// done records that the database has the batch.
func (b batch) done() {
	if b.run != nil {
		b.run.flushed = b.counts
	}
}

// undo puts the batch back.
func (b batch) undo() {
	if b.run != nil && len(b.pending) > 0 {
		b.run.restorePending(b.pending)
	}
}

// flushAll writes what the recorders have counted since the last pass.
func (c *Controller) flushAll(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for name, r := range *c.recorders.Load() {
		b := r.takeBatch()
		if b.run == nil {
			continue
		}
		if _, err := sqldb.Write(ctx, c.db, "rollout.flush", func(tx *sqldb.Tx) (any, error) { return nil, b.write(tx, name, c.instanceID) }); err != nil {
			b.undo()
			errs = append(errs, fmt.Errorf("rollout: flush(%q): %w", name, err))
			continue
		}
		b.done()
	}
	return errors.Join(errs...)
}

const (
	// The failing users of a process have a row of their own in
	// automation_rollout_counts: its instance id ends with failuresSuffix.
	failuresSuffix = "/users"
	// A user's failures count at most failuresPerHour times an hour, so that one
	// user who always fails does not raise the rate much.
	failuresPerHour = 10
	// failuresKept is how long the failing users are kept, in seconds.
	failuresKept = 2 * 3600
)

// insertFailures records that requests of these users failed in this minute. It
// returns the users who count: those whom no replica has recorded in this minute
// before, and who are below failuresPerHour.
func insertFailures(tx *sqldb.Tx, name string, run int64, kind failureKind, users []string) (counted []string, _ error) {
	var now sqldb.Time
	if err := tx.Get(&now, `SELECT {now}`); err != nil {
		return nil, err
	}
	list, err := json.Marshal(users)
	if err != nil {
		return nil, err
	}
	return counted, tx.Select(&counted, `WITH u (user_hash) AS {each $5}
		INSERT INTO automation_rollout_failures (rollout, stage_run, kind, user_hash, minute)
		SELECT CAST($1 AS text), CAST($2 AS bigint), CAST($3 AS text), u.user_hash, {unix $4} FROM u
		WHERE (SELECT count(*) FROM automation_rollout_failures AS f
			WHERE f.rollout = $1 AND f.stage_run = $2 AND f.kind = $3 AND f.user_hash = u.user_hash AND f.minute > {in -3600}) < CAST($6 AS bigint)
		ON CONFLICT DO NOTHING RETURNING user_hash`, name, run, kind.String(), now.Unix()/60*60, string(list), failuresPerHour)
}
