package cleanup

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// clockSkew is the largest assumed difference between a session's times on the chain
// and in its row.
const clockSkew = time.Hour

// pass is the state of one pass; token identifies its lease.
type pass struct {
	*Cleaner
	token     string
	dryRun    bool
	startedAt time.Time
	batch     int
	report    Report
}

// pass runs unless another pass is still running or finished within the duration since.
func (c *Cleaner) pass(ctx context.Context, dryRun bool, since time.Duration) (Report, error) {
	p := &pass{Cleaner: c, token: rand.Text(), dryRun: dryRun, startedAt: c.opts.Now(), batch: c.opts.Batch,
		report: Report{DryRun: dryRun, Removed: []Count{}}}
	err := p.run(ctx, since)
	p.report.Took = c.opts.Now().Sub(p.startedAt)
	if err != nil {
		err = fmt.Errorf("cleanup: %w", err)
	}
	return p.report, err
}

func (p *pass) run(ctx context.Context, since time.Duration) error {
	if !p.dryRun {
		if err := p.acquireLease(ctx, since); err != nil {
			return err
		}
		defer p.releaseLease(ctx)
	}
	for _, k := range kinds(p.opts) {
		p.report.Removed = append(p.report.Removed, Count{Kind: k.name, Table: k.table, OlderThan: k.retention})
		if err := p.deleteExpired(ctx, k); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	if p.opts.DefaultOptIn { // otherwise every setting that is on differs from the default
		p.report.Removed = append(p.report.Removed, Count{Kind: unusedName, Table: unusedTable, OlderThan: p.opts.Retention})
		if err := p.deleteUnused(ctx); err != nil {
			return fmt.Errorf("%s: %w", unusedName, err)
		}
	}
	if p.dryRun {
		return nil
	}
	return p.markFinished(ctx)
}

// deleteExpired deletes the rows of one kind, oldest first.
func (p *pass) deleteExpired(ctx context.Context, k kind) error {
	if p.dryRun {
		n, err := sqldb.Read(ctx, p.db, "cleanup.count", func(tx *sqldb.Tx) (n int64, err error) {
			age, err := k.minAge(tx)
			if err == nil {
				err = tx.Get(&n, `SELECT count(*) FROM `+k.table+` WHERE `+k.where+` AND `+k.timeColumn+` < {in -$1}`, age)
			}
			return n, err
		})
		p.addRows(n)
		return err
	}
	// Each batch starts where the last one ended: until a vacuum, the index still
	// contains all deleted rows, and a search from the beginning would read them again.
	from := "0001-01-01"
	for {
		limit := p.batch
		deleted, err := runBatch(ctx, p, func(tx *sqldb.Tx) ([]string, error) {
			age, err := k.minAge(tx)
			if err != nil {
				return nil, err
			}
			var deleted []string
			err = tx.Select(&deleted, k.deleteQuery(tx.SQLite()), age, limit, from)
			return deleted, err
		})
		if err != nil {
			return err
		}
		p.addRows(int64(len(deleted)))
		if len(deleted) < limit {
			return nil
		}
		from = max(from, slices.Max(deleted))
		if err := retry.Sleep(ctx, p.opts.Pause); err != nil {
			return err
		}
	}
}

// minAge returns the age in seconds from which a row is deleted.
func (k kind) minAge(tx *sqldb.Tx) (float64, error) {
	age := k.retention.Seconds()
	if !k.keepsUncertain {
		return age, nil
	}
	var uncertain float64
	err := tx.Get(&uncertain, uncertainOpenAge)
	return max(age, uncertain+clockSkew.Seconds()), err
}

// deleteUnused goes through the users who have automation on, in the order of their
// ids, and deletes the settings that equal the defaults and were not used.
func (p *pass) deleteUnused(ctx context.Context) error {
	type window struct {
		last    string // the id of the last user; "" if there are no more users
		deleted int64
	}
	from := ""
	for {
		limit := p.batch
		work := func(tx *sqldb.Tx) (w window, err error) {
			var users []string
			if err := tx.Select(&users, `SELECT {text s.user_id} FROM `+optedIn+` ORDER BY {text s.user_id} LIMIT $2`, from, limit); err != nil || len(users) == 0 {
				return w, err
			}
			last := users[len(users)-1]
			if len(users) == limit {
				w.last = last
			}
			if p.dryRun {
				err = tx.Get(&w.deleted, `SELECT count(*) FROM `+unused, from, last, p.opts.Retention.Seconds(), seconds(p.opts.DefaultDuration))
				return w, err
			}
			w.deleted, err = tx.Exec(deleteUnusedQuery(tx.SQLite()),
				from, last, p.opts.Retention.Seconds(), seconds(p.opts.DefaultDuration))
			return w, err
		}
		var w window
		var err error
		if p.dryRun {
			w, err = sqldb.Read(ctx, p.db, "cleanup.count", work)
		} else {
			w, err = runBatch(ctx, p, work)
		}
		if err != nil {
			return err
		}
		p.addRows(w.deleted)
		if w.last == "" {
			return nil
		}
		from = w.last
		if err := retry.Sleep(ctx, p.opts.Pause); err != nil {
			return err
		}
	}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// addRows adds n to the count of the current kind, which is the report's last, and
// reports the progress.
func (p *pass) addRows(n int64) {
	p.report.Removed[len(p.report.Removed)-1].Rows += n
	if p.opts.Progress != nil {
		r := p.report
		r.Removed, r.Took = append([]Count(nil), r.Removed...), p.opts.Now().Sub(p.startedAt)
		p.opts.Progress(r)
	}
}
