package automation

import (
	"context"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// newCleaner makes the Cleaner, which removes rows past their retention.
func (m *Module) newCleaner(db *sqldb.DB) (*cleanup.Cleaner, error) {
	return cleanup.New(db, cleanup.Options{
		Retention: time.Duration(m.cfg.RetentionDays) * 24 * time.Hour, Interval: m.cfg.CleanupInterval,
		DefaultOptIn: m.cfg.DefaultOptIn, DefaultDuration: m.cfg.DefaultSessionDuration,
		Observe: m.observeCleanup, Logger: m.log,
	})
}

// observeCleanup reports to the observer what a pass removed.
func (m *Module) observeCleanup(r cleanup.Report, err error) {
	removed := map[string]int64{}
	for _, c := range r.Removed {
		removed[c.Table] += c.Rows
	}
	m.observer.Cleanup(removed, r.Took, err)
}

// cleanup runs one pass of the clean-up. With dryRun it writes nothing and reports
// what it would remove. On an error, or when ctx ends, the report has what was
// removed until then.
func (m *Module) cleanup(ctx context.Context, dryRun bool) (cleanup.Report, error) {
	r, err := m.cleaner.Pass(ctx, dryRun)
	if !dryRun {
		m.observeCleanup(r, err)
	}
	return r, err
}
