package rollout

import (
	"context"
	"errors"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// beginMinute lets users contribute again whose minute is over. Recorders read
// no clock themselves.
func (c *Controller) beginMinute() {
	minute := uint64(c.now().Unix() / 60) //nolint:gosec // positive since 1970
	for _, r := range *c.recorders.Load() {
		r.users.minute.Store(minute)
	}
}

// flush writes a recorder's counts, if there are new ones, and returns them for
// setFlushed.
func (c *Controller) flush(tx *sqldb.Tx, r *Recorder) (counts [arms]Counts, err error) {
	if r == nil {
		return counts, nil
	}
	run := r.run.Load()
	if run == nil {
		return counts, nil
	}
	for a := range arms {
		counts[a] = run.arms[a].counts()
		if counts[a] == run.flushed[a] {
			continue
		}
		if err := writeCounts(tx, r.name, c.instanceID, run.stageRun, a, counts[a]); err != nil {
			return counts, err
		}
	}
	return counts, nil
}

// setFlushed notes what the database has.
func (r *Recorder) setFlushed(counts [arms]Counts) {
	if run := r.run.Load(); run != nil {
		run.flushed = counts
	}
}

// flushAll writes what is left of all recorders.
func (c *Controller) flushAll(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for name, r := range *c.recorders.Load() {
		if r.run.Load() == nil {
			continue
		}
		counts, err := sqldb.Write(ctx, c.db, "rollout.flush", func(tx *sqldb.Tx) ([arms]Counts, error) { return c.flush(tx, r) })
		if err != nil {
			errs = append(errs, fmt.Errorf("rollout: flush(%q): %w", name, err))
			continue
		}
		r.setFlushed(counts)
	}
	return errors.Join(errs...)
}
