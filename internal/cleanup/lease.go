package cleanup

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	lease    = time.Minute            // how long a pass survives its process
	slow     = 100 * time.Millisecond // a batch that takes longer is followed by a smaller one
	smallest = 20                     // rows in a batch
)

// take takes the lease if nobody has it and no pass has ended within since.
func (p *pass) take(ctx context.Context, since time.Duration) error {
	n, err := sqldb.Write(ctx, p.db, "cleanup.take", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`INSERT INTO automation_jobs AS j (name, lease_token, lease_until, started_at) VALUES ('cleanup', $1, {in $2}, {now})
			ON CONFLICT (name) DO UPDATE SET lease_token = excluded.lease_token, lease_until = excluded.lease_until, started_at = excluded.started_at
			WHERE (j.lease_until IS NULL OR j.lease_until < {now}) AND (j.finished_at IS NULL OR j.finished_at <= {in -$3})`,
			p.token, lease.Seconds(), since.Seconds())
	})
	if err == nil && n == 0 {
		err = ErrBusy
	}
	return err
}

// step runs one batch in a transaction that extends the lease.
func step[T any](ctx context.Context, p *pass, fn func(*sqldb.Tx) (T, error)) (T, error) {
	began := p.opts.Now()
	v, err := sqldb.Write(ctx, p.db, "cleanup.batch", func(tx *sqldb.Tx) (v T, err error) {
		n, err := tx.Exec(`UPDATE automation_jobs SET lease_until = {in $2} WHERE name = 'cleanup' AND lease_token = $1`, p.token, lease.Seconds())
		if err == nil && n == 0 {
			err = ErrLeaseLost
		}
		if err != nil {
			return v, err
		}
		return fn(tx)
	})
	if p.opts.Now().Sub(began) > slow {
		p.batch = max(p.batch/2, min(smallest, p.batch))
	}
	return v, err
}

// finish notes that the pass came to its end.
func (p *pass) finish(ctx context.Context) error {
	_, err := step(ctx, p, func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`UPDATE automation_jobs SET finished_at = {now} WHERE name = 'cleanup'`)
	})
	return err
}

// leave gives the lease back, also when ctx has ended. Where that fails, the
// lease ends by itself.
func (p *pass) leave(ctx context.Context) {
	_, err := sqldb.Write(context.WithoutCancel(ctx), p.db, "cleanup.leave", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`UPDATE automation_jobs SET lease_token = NULL, lease_until = NULL WHERE name = 'cleanup' AND lease_token = $1`, p.token)
	})
	if err != nil {
		p.opts.Logger.Warn("clean-up's lease not given back, it ends by itself", "lease", lease, "error", err)
	}
}
