package rollout

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func newRecorder(name string, o Options) *Recorder {
	r := &Recorder{name: name, now: o.Now}
	r.caps.most, r.caps.seed = uint64(o.UserPerMinute), maphash.MakeSeed()
	r.trip.coolDown = o.CoolDown
	return r
}

// beginMinute lets users contribute again whose minute is over. The recorders
// look at no clock themselves.
func (c *Controller) beginMinute() {
	minute := uint64(c.now().Unix() / 60)
	for _, r := range *c.recorders.Load() {
		r.caps.minute.Store(minute)
	}
}

// write puts a recorder's counts into the database, if there are new ones.
func (c *Controller) write(tx *sqldb.Tx, r *Recorder) (counts [arms]Counts, err error) {
	if r == nil {
		return counts, nil
	}
	t := r.tally.Load()
	if t == nil {
		return counts, nil
	}
	for a := range arms {
		counts[a] = t.arms[a].counts()
		if counts[a] == t.told[a] {
			continue
		}
		if err := flush(tx, r.name, c.incarnation, t.bake, a, counts[a]); err != nil {
			return counts, err
		}
	}
	return counts, nil
}

// handedIn notes what the database has.
func (r *Recorder) handedIn(counts [arms]Counts, trips int64) {
	if t := r.tally.Load(); t != nil {
		t.told = counts
	}
	r.trip.said = max(r.trip.said, trips)
}

// handIn hands in what is left.
func (c *Controller) handIn(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for name, r := range *c.recorders.Load() {
		if r.tally.Load() == nil {
			continue
		}
		counts, err := sqldb.Write(ctx, c.db, "rollout.hand_in", func(tx *sqldb.Tx) ([arms]Counts, error) { return c.write(tx, r) })
		if err != nil {
			errs = append(errs, fmt.Errorf("rollout: hand in(%q): %w", name, err))
			continue
		}
		r.handedIn(counts, 0)
	}
	return errors.Join(errs...)
}

// warnOfTrips logs that this replica took itself out, with the database or without.
func (c *Controller) warnOfTrips(ctx context.Context) {
	for name, r := range *c.recorders.Load() {
		if n := r.trip.count.Load(); n > r.trip.logged {
			r.trip.logged = n
			c.log.ErrorContext(ctx, "too many requests fail here: this replica does without the feature", "flag", name, "for", c.o.CoolDown)
		}
	}
}

// sayTripped puts into the history that this replica took itself out.
func (c *Controller) sayTripped(tx *sqldb.Tx, rec *Recorder) (trips int64, err error) {
	trips = rec.trip.count.Load()
	_, r, err := read(tx, rec.name, `{lock}`)
	if err != nil || r == nil {
		return 0, err
	}
	next := *r
	next.seq++
	if _, err := tx.Exec(`UPDATE automation_rollouts SET seq = $2 WHERE name = $1`, r.name, next.seq); err != nil {
		return 0, err
	}
	s := step{action: Tripped, actor: "replica:" + c.incarnation,
		detail: fmt.Sprintf("at least %d of a replica's last %d requests failed: it has taken itself out for %v, or until the flag is changed", tripErrors, tripLast, c.o.CoolDown)}
	_, err = record(tx, *r, next, s, Evidence{})
	return trips, err
}
