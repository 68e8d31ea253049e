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

// The database keeps its own time, which stands still for a bubble: that a
// pass is due is told to it by hand.
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
					t.Error(err)
				}
				passes.Add(1)
				rows.Add(r.Total())
			}})
			go func() { done <- c.Run(ctx) }()
		}
		for i := range 3 {
			run(t, pool, setting("u", true, 3600, 40*day, 40*day), `UPDATE automation_jobs SET finished_at = {in -3601}`)
			time.Sleep(time.Hour)
			synctest.Wait()
			if p, r := passes.Load(), rows.Load(); p != int64(i+1) || r != int64(i+1) {
				t.Errorf("%d passes removed %d rows in interval %d", p, r, i+1)
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
		run(t, pool, `ALTER TABLE user_automation_settings RENAME TO elsewhere`)
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		if err := <-reports; err == nil {
			t.Error("the first pass found its table")
		}
		run(t, pool, `ALTER TABLE elsewhere RENAME TO user_automation_settings`)
		if err := <-reports; err != nil {
			t.Error(err)
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
		if n := number(t, pool, `SELECT count(*) FROM user_automation_settings WHERE deleted_at IS NOT NULL`); n != 45 {
			t.Errorf("%d are left, want 45", n)
		}
		if n := number(t, pool, `SELECT count(*) FROM automation_jobs WHERE lease_token IS NOT NULL`); n != 0 {
			t.Error("the lease was not given back")
		}
	})
}
