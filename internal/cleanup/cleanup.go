// Package cleanup deletes rows that are past their retention, and nothing else.
//
//	cleaner, err := cleanup.New(sqldb.New(pool, sqldb.Options{}), cleanup.Options{})
//	...
//	report, err := cleaner.Pass(ctx, false) // once, or
//	err = cleaner.Run(ctx)                  // every hour, until ctx ends
//
// # What is deleted
//
//   - settings that their user deleted more than the retention ago;
//   - sessions that were closed, or failed to open, more than the retention ago.
//     Sessions that count in the budget of the last day are kept. So are all
//     sessions younger than an open whose outcome is unknown: reconciliation must
//     know every session that it could mistake for that open's;
//   - the audit and the evidence of flags and rollouts, and sums of requests, after
//     the audit's retention. Triggers protect the audit: nobody can delete a row
//     younger than 90 days;
//   - users' feedback: after the retention if it is marked as done, otherwise after
//     the audit's retention;
//   - the errors that a user got, the retention after the last one;
//   - reports of processes whose last report is a day old;
//   - if automation is on by default: settings that equal the defaults, of users who
//     have not changed them for the retention and have not used the feature.
//     Deleting them changes nothing for the user. An opt-out is never deleted,
//     even while off is the default, because defaults change.
//
// # How
//
// A pass deletes in batches of 200 rows, oldest first, which an index finds. Each
// batch is a transaction of a few milliseconds, followed by a pause that keeps the
// effect on other statements small. One replica works at a time: the row "cleanup"
// of automation_jobs is its lease, which every batch extends. No connection or lock
// is held between batches. If a replica is killed, another one continues after the
// lease has expired.
package cleanup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

var (
	// ErrBusy means that another process is cleaning up, or died while doing so
	// within the last minute. Nothing was removed.
	ErrBusy = errors.New("another process is cleaning up")
	// ErrLeaseLost means that the pass took too long between two batches and
	// another process may have continued it. Finished batches stay removed.
	ErrLeaseLost = errors.New("the clean-up's lease was lost")
	// ErrUnavailable means that the database could not be used.
	ErrUnavailable = sqldb.ErrUnavailable
)

const (
	// MinRetention is the shortest retention: a user's budget counts the last day.
	MinRetention = 24 * time.Hour
	// MinAuditRetention is the shortest retention of the audit. The audit's triggers
	// reject the deletion of younger rows.
	MinAuditRetention = 90 * 24 * time.Hour
)

// Options configure a Cleaner. The zero value works.
type Options struct {
	Retention      time.Duration // 0 means 30 days, at least MinRetention
	AuditRetention time.Duration // 0 means 365 days, at least MinAuditRetention

	// The settings of a user who has stored none, as in settings.Defaults.
	DefaultOptIn    bool
	DefaultDuration time.Duration // 0 means 1 h

	Interval time.Duration // between the passes of all replicas together; 0 means 1 h
	Batch    int           // rows per transaction; a pass reduces it when a batch is slow; 0 means 200
	Pause    time.Duration // between two batches; 0 means 200 ms, so about 1,000 rows a second are deleted
	NoPause  bool          // makes Pause 0

	// Progress, if set, is called after each batch with the report so far.
	Progress func(Report)
	// Observe, if set, is called after each pass of Run.
	Observe func(Report, error)

	Logger *slog.Logger     // nil discards
	Now    func() time.Time // the clock for durations; nil means time.Now
}

func (o Options) withDefaults() (Options, error) {
	o.Retention = cmp.Or(o.Retention, 30*24*time.Hour)
	o.AuditRetention = cmp.Or(o.AuditRetention, 365*24*time.Hour)
	o.DefaultDuration = cmp.Or(o.DefaultDuration, time.Hour)
	o.Interval = cmp.Or(o.Interval, time.Hour)
	o.Batch = cmp.Or(o.Batch, 200)
	o.Pause = cmp.Or(o.Pause, 200*time.Millisecond)
	if o.NoPause {
		o.Pause = 0
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var errs []error
	if o.Retention < MinRetention {
		errs = append(errs, fmt.Errorf("cleanup: Retention is %v, expected at least %v", o.Retention, MinRetention))
	}
	if o.AuditRetention < MinAuditRetention {
		errs = append(errs, fmt.Errorf("cleanup: AuditRetention is %v, expected at least %v (90 days)", o.AuditRetention, MinAuditRetention))
	}
	if o.Batch < 0 || o.Pause < 0 || o.Interval < 0 || o.DefaultDuration < 0 {
		errs = append(errs, errors.New("cleanup: an option is negative"))
	}
	return o, errors.Join(errs...)
}

// Cleaner removes rows that are past their retention. It is safe for concurrent use.
type Cleaner struct {
	db   *sqldb.DB
	opts Options
}

// New returns a Cleaner; it does no I/O. The error names every invalid option.
func New(db *sqldb.DB, o Options) (*Cleaner, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Cleaner{db: db, opts: o}, nil
}

// Report says what a pass removed or, in a dry run, would remove. In JSON, durations
// are numbers of seconds: took_seconds, older_than_seconds.
type Report struct {
	DryRun  bool
	Removed []Count // one for each kind, in the order of processing
	Took    time.Duration
}

// Count says how many rows of one kind a pass removed, or would remove.
type Count struct {
	Kind      string
	Table     string
	OlderThan time.Duration // the retention that applied
	Rows      int64
}

// MarshalJSON implements json.Marshaler.
func (r Report) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		DryRun  bool    `json:"dry_run"`
		Total   int64   `json:"total"`
		Removed []Count `json:"removed"`
		Took    float64 `json:"took_seconds"`
	}{r.DryRun, r.Total(), r.Removed, r.Took.Seconds()})
}

// MarshalJSON implements json.Marshaler.
func (c Count) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Kind      string  `json:"kind"`
		Table     string  `json:"table"`
		OlderThan float64 `json:"older_than_seconds"`
		Rows      int64   `json:"rows"`
	}{c.Kind, c.Table, c.OlderThan.Seconds(), c.Rows})
}

// Total returns the number of rows of all kinds.
func (r Report) Total() (n int64) {
	for _, c := range r.Removed {
		n += c.Rows
	}
	return n
}

// Pass removes all rows that are past their retention. With dryRun it only counts
// them: it writes nothing and needs no lease. It returns when it is done, when ctx
// ends, or at the first error. The report then covers the rows removed so far. The
// error is ErrBusy, ErrLeaseLost, ctx's, or the database's.
func (c *Cleaner) Pass(ctx context.Context, dryRun bool) (Report, error) {
	return c.pass(ctx, dryRun, 0)
}

// Run makes a pass every Interval until ctx ends, and then returns nil. All replicas
// together make one pass per interval. Errors are logged; the next pass tries again.
func (c *Cleaner) Run(ctx context.Context) error {
	// A gateway may be restarted more often than once per interval, so it checks several
	// times per interval whether a pass is due. The check is one statement.
	wait := min(c.opts.Interval/4, 5*time.Minute)
	if err := retry.Sleep(ctx, rand.N(wait+1)); err != nil {
		return nil
	}
	retry.Loop(ctx, nil, func(ctx context.Context) time.Duration {
		r, err := c.pass(ctx, false, c.opts.Interval)
		if errors.Is(err, ErrBusy) || ctx.Err() != nil {
			return wait
		}
		if err != nil {
			c.opts.Logger.Warn("clean-up failed, the next pass continues", "removed", r.Total(), "error", err)
		} else {
			c.opts.Logger.Info("cleaned up", "removed", r.Total(), "took", r.Took)
		}
		if c.opts.Observe != nil {
			c.opts.Observe(r, err)
		}
		return wait
	})
	return nil
}
