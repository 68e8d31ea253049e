package cleanup

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

const (
	leaseDuration = time.Minute            // how long a pass blocks others after its process has died
	slowBatch     = 100 * time.Millisecond // a batch that takes longer is followed by a smaller one
	minBatch      = 20                     // rows
)

// acquireLease acquires the lease. It returns ErrBusy if another process has it or a
// pass has finished within the duration since.
func (p *pass) acquireLease(ctx context.Context, since time.Duration) error {
	n, err := sqldb.Write(ctx, p.db, "cleanup.acquire", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`INSERT INTO automation_jobs AS j (name, lease_token, lease_until, started_at) VALUES ('cleanup', $1, {in $2}, {now})
			ON CONFLICT (name) DO UPDATE SET lease_token = excluded.lease_token, lease_until = excluded.lease_until, started_at = excluded.started_at
			WHERE (j.lease_until IS NULL OR j.lease_until < {now}) AND (j.finished_at IS NULL OR j.finished_at <= {in -$3})`,
			p.token, leaseDuration.Seconds(), since.Seconds())
	})
	if err == nil && n == 0 {
		err = ErrBusy
	}
	return err
}

// runBatch runs fn in a transaction that extends the lease.
func runBatch[T any](ctx context.Context, p *pass, fn func(*sqldb.Tx) (T, error)) (T, error) {
	started := p.opts.Now()
	v, err := sqldb.Write(ctx, p.db, "cleanup.batch", func(tx *sqldb.Tx) (v T, err error) {
		n, err := tx.Exec(`UPDATE automation_jobs SET lease_until = {in $2} WHERE name = 'cleanup' AND lease_token = $1`, p.token, leaseDuration.Seconds())
		if err == nil && n == 0 {
			err = ErrLeaseLost
		}
		if err != nil {
			return v, err
		}
		return fn(tx)
	})
	if p.opts.Now().Sub(started) > slowBatch {
		p.batch = max(p.batch/2, min(minBatch, p.batch))
	}
	return v, err
}

// markFinished records that the pass has finished.
func (p *pass) markFinished(ctx context.Context) error {
	_, err := runBatch(ctx, p, func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`UPDATE automation_jobs SET finished_at = {now} WHERE name = 'cleanup'`)
	})
	return err
}

// releaseLease releases the lease, even if ctx has ended. If that fails, the lease
// expires.
func (p *pass) releaseLease(ctx context.Context) {
	_, err := sqldb.Write(context.WithoutCancel(ctx), p.db, "cleanup.release", func(tx *sqldb.Tx) (int64, error) {
		return tx.Exec(`UPDATE automation_jobs SET lease_token = NULL, lease_until = NULL WHERE name = 'cleanup' AND lease_token = $1`, p.token)
	})
	if err != nil {
		p.opts.Logger.Warn("releasing the clean-up's lease failed; it expires by itself", "lease", leaseDuration, "error", err)
	}
}
