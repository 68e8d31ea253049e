package automation

import (
	"context"

	"github.com/MorpheusAIs/gateway-automation/automation/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// newCleaner makes what removes rows past their retention.
func (m *Module) newCleaner(db *sqldb.DB) (*cleanup.Cleaner, error) {
	return cleanup.New(db, cleanup.Options{
		Retention: m.cfg.Retention, Interval: m.cfg.CleanupInterval,
		DefaultOptIn: m.cfg.DefaultOptIn, DefaultDuration: m.cfg.DefaultSessionDuration,
		Observe: m.observer.ObserveCleanup, Logger: m.log,
	})
}

// Cleanup makes one pass of the clean-up now, or tells what it would remove.
// See [cleanup.Cleaner.Pass].
func (m *Module) Cleanup(ctx context.Context, dryRun bool) (cleanup.Report, error) {
	r, err := m.cleaner.Pass(ctx, dryRun)
	if !dryRun {
		m.observer.ObserveCleanup(r, err)
	}
	return r, err
}
