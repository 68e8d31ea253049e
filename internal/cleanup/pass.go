package cleanup

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// skew is how far apart a session's times may be on the chain and in its row.
const skew = time.Hour

// pass is one pass, which holds the lease by its token.
type pass struct {
	*Cleaner
	token  string
	dryRun bool
	began  time.Time
	batch  int
	report Report
}

// pass works if none has finished, or begun by a living process, within since.
func (c *Cleaner) pass(ctx context.Context, dryRun bool, since time.Duration) (Report, error) {
	p := &pass{Cleaner: c, token: rand.Text(), dryRun: dryRun, began: c.opts.Now(), batch: c.opts.Batch,
		report: Report{DryRun: dryRun, Removed: []Count{}}}
	err := p.all(ctx, since)
	p.report.Took = c.opts.Now().Sub(p.began)
	if err != nil {
		err = fmt.Errorf("cleanup: %w", err)
	}
	return p.report, err
}

func (p *pass) all(ctx context.Context, since time.Duration) error {
	if !p.dryRun {
		if err := p.take(ctx, since); err != nil {
			return err
		}
		defer p.leave(ctx)
	}
	for _, k := range kinds(p.opts) {
		p.report.Removed = append(p.report.Removed, Count{Kind: k.name, Table: k.table, Older: k.keep})
		if err := p.aged(ctx, k); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	if p.opts.DefaultOptIn { // otherwise whoever is on differs from the default
		p.report.Removed = append(p.report.Removed, Count{Kind: untouchedName, Table: untouchedTable, Older: p.opts.Retention})
		if err := p.untouched(ctx); err != nil {
			return fmt.Errorf("%s: %w", untouchedName, err)
		}
	}
	if p.dryRun {
		return nil
	}
	return p.finish(ctx)
}

// aged removes the rows of one kind, oldest first.
func (p *pass) aged(ctx context.Context, k kind) error {
	if p.dryRun {
		n, err := sqldb.Read(ctx, p.db, "cleanup.count", func(tx *sqldb.Tx) (n int64, err error) {
			age, err := k.age(tx)
			if err == nil {
				err = tx.Get(&n, `SELECT count(*) FROM `+k.table+` WHERE `+k.where+` AND `+k.at+` < {in -$1}`, age)
			}
			return n, err
		})
		p.count(n)
		return err
	}
	// From the last batch's end on, not from the oldest row that there is:
	// until a vacuum the index still leads through all that was removed.
	from := "0001-01-01"
	for {
		limit := p.batch
		gone, err := step(ctx, p, func(tx *sqldb.Tx) ([]string, error) {
			age, err := k.age(tx)
			if err != nil {
				return nil, err
			}
			if k.audit {
				if err := audit(tx, true); err != nil {
					return nil, err
				}
			}
			var gone []string
			if err := tx.Select(&gone, k.remove(tx.SQLite()), age, limit, from); err != nil || !k.audit {
				return gone, err
			}
			return gone, audit(tx, false)
		})
		if err != nil {
			return err
		}
		p.count(int64(len(gone)))
		if len(gone) < limit {
			return nil
		}
		from = max(from, slices.Max(gone))
		if err := sleep(ctx, p.opts.Pause); err != nil {
			return err
		}
	}
}

// age is how old a row must be, in seconds.
func (k kind) age(tx *sqldb.Tx) (float64, error) {
	age := k.keep.Seconds()
	if !k.sessions {
		return age, nil
	}
	var doubt float64
	err := tx.Get(&doubt, doubtQuery)
	return max(age, doubt+skew.Seconds()), err
}

// untouched goes through the users who have automation on, by their ids.
func (p *pass) untouched(ctx context.Context) error {
	type window struct {
		last string
		gone int64
	}
	from := ""
	for {
		limit := p.batch
		work := func(tx *sqldb.Tx) (w window, err error) {
			var seen []string
			if err := tx.Select(&seen, `SELECT {text s.user_id} FROM `+adopters+` ORDER BY {text s.user_id} LIMIT $2`, from, limit); err != nil || len(seen) == 0 {
				return w, err
			}
			last := seen[len(seen)-1]
			if len(seen) == limit {
				w.last = last
			}
			if p.dryRun {
				err = tx.Get(&w.gone, `SELECT count(*) FROM `+untouched, from, last, p.opts.Retention.Seconds(), seconds(p.opts.DefaultDuration))
				return w, err
			}
			w.gone, err = tx.Exec(removeUntouched(tx.SQLite()),
				from, last, p.opts.Retention.Seconds(), seconds(p.opts.DefaultDuration))
			return w, err
		}
		var w window
		var err error
		if p.dryRun {
			w, err = sqldb.Read(ctx, p.db, "cleanup.count", work)
		} else {
			w, err = step(ctx, p, work)
		}
		if err != nil {
			return err
		}
		p.count(w.gone)
		if w.last == "" {
			return nil
		}
		from = w.last
		if err := sleep(ctx, p.opts.Pause); err != nil {
			return err
		}
	}
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// count adds to what is reported of the present kind.
func (p *pass) count(n int64) {
	p.report.Removed[len(p.report.Removed)-1].Rows += n
	if p.opts.Progress != nil {
		r := p.report
		r.Removed, r.Took = append([]Count(nil), r.Removed...), p.opts.Now().Sub(p.began)
		p.opts.Progress(r)
	}
}

// audit says within a transaction that the clean-up is at work, or ends it.
func audit(tx *sqldb.Tx, on bool) error {
	var query string
	switch {
	case tx.SQLite() && on:
		query = `INSERT OR REPLACE INTO automation_context (key, value) VALUES ('cleanup', 'on')`
	case tx.SQLite():
		query = `DELETE FROM automation_context WHERE key = 'cleanup'`
	case on:
		query = `SELECT set_config('automation.cleanup', 'on', true)`
	default:
		query = `SELECT set_config('automation.cleanup', '', true)`
	}
	_, err := tx.Exec(query)
	return err
}
