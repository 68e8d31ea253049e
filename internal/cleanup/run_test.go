package cleanup_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// The database's clock does not follow the synctest clock, so the test makes a pass due by
// changing its row.
func TestRun_MakesOnePassAnIntervalOverAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		var passes atomic.Int64
		var rows atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for range 3 {
			c := newCleaner(t, pool, cleanup.Options{Interval: time.Hour, Observe: func(r cleanup.Report, err error) {
				if err != nil {
					t.Errorf("pass failed: %v", err)
				}
				passes.Add(1)
				rows.Add(r.Total())
			}})
			go func() { done <- c.Run(ctx) }()
		}
		for i := range 3 {
			execute(t, pool, setting("u", true, 3600, 40*day, 40*day), `UPDATE automation_jobs SET finished_at = {in -3601}`)
			time.Sleep(time.Hour)
			synctest.Wait()
			if p, r := passes.Load(), rows.Load(); p != int64(i+1) || r != int64(i+1) {
				t.Errorf("after %d intervals %d passes removed %d rows, want one pass and one row per interval", i+1, p, r)
			}
		}
		cancel()
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestRun_ContinuesAfterAFailedPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		ctx, cancel := context.WithCancel(t.Context())
		reports := make(chan error, 100)
		c := newCleaner(t, pool, cleanup.Options{Observe: func(_ cleanup.Report, err error) { reports <- err }})
		execute(t, pool, `ALTER TABLE user_automation_settings RENAME TO renamed`)
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		if err := <-reports; err == nil {
			t.Error("the pass without the table succeeded")
		}
		execute(t, pool, `ALTER TABLE renamed RENAME TO user_automation_settings`)
		if err := <-reports; err != nil {
			t.Errorf("the pass after the failed one: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRun_EndsInTheMiddleOfAPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pool := schematest.SQLite(t)
		fill(t, pool, 50)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := newCleaner(t, pool, cleanup.Options{Batch: 5, Progress: func(cleanup.Report) { cancel() }})
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
		if n := selectInt(t, pool, `SELECT count(*) FROM user_automation_settings WHERE deleted_at IS NOT NULL`); n != 45 {
			t.Errorf("%d of 50 deleted settings are left, want 45", n)
		}
		if n := selectInt(t, pool, `SELECT count(*) FROM automation_jobs WHERE lease_token IS NOT NULL`); n != 0 {
			t.Error("the lease was not released")
		}
	})
}
