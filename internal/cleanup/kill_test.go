package cleanup_test

import (
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

// childEnv is set to a DSN in a child process of TestPass_KilledInTheMiddleDeletesNothingElse,
// which then runs a clean-up of that database.
const childEnv = "CLEANUP_TEST_CHILD"

func TestReplicaProcess(t *testing.T) {
	dsn := os.Getenv(childEnv)
	if dsn == "" {
		t.Skip("runs only in a child process of another test")
	}
	pool := pgtest.Open(t, dsn)
	c := newCleaner(t, pool, cleanup.Options{Batch: 50, DefaultOptIn: true, DefaultDuration: 2 * time.Hour, Progress: func(cleanup.Report) {
		_, _ = os.Stdout.WriteString("batch\n")
	}})
	mustPass(t, c, false)
}

func TestPass_KilledInTheMiddleDeletesNothingElse(t *testing.T) {
	const n = 2000
	dsn := schematest.Database(t)
	pool := migrated(t, pgtest.Open(t, dsn))
	fill(t, pool, n)

	for i := range 3 {
		p := proctest.Start(t, proctest.Self([]string{"-test.run=^TestReplicaProcess$"}, childEnv+"="+dsn))
		for batches := 0; batches < 10*(i+1); {
			line, ok := p.Line()
			if !ok {
				t.Fatal("the child process ended before it was killed")
			}
			if strings.HasPrefix(line, "batch") {
				batches++
			}
		}
		p.Kill()
		if selectInt(t, pool, `SELECT count(*) FROM automation_jobs WHERE lease_until > now()`) == 0 {
			t.Fatal("the killed child process holds no lease, so it was not in the middle of a pass")
		}
		execute(t, pool, `UPDATE automation_jobs SET lease_until = {now}`) // instead of waiting for it to expire
	}
	mustPass(t, newCleaner(t, pool, cleanup.Options{}), false)
	checkRemaining(t, pool, n)
}

func TestPass_InTwoReplicasDeletesEachRowOnce(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		const n = 1000
		fill(t, pool, n)
		var removed atomic.Int64
		var wait sync.WaitGroup
		for range 2 {
			c := newCleaner(t, pool, cleanup.Options{Batch: 100})
			wait.Go(func() {
				for removed.Load() < 3*n {
					r, _ := c.Pass(t.Context(), false) // often ErrBusy
					removed.Add(r.Total())
				}
			})
		}
		// Users who come back during the clean-up keep their settings.
		for i := range 50 {
			_, err := pool.ExecContext(t.Context(), `UPDATE user_automation_settings SET deleted_at = NULL, user_id = 'out-back-' || user_id, is_enabled = FALSE
				WHERE user_id = (SELECT min(user_id) FROM user_automation_settings WHERE deleted_at IS NOT NULL)`)
			if err != nil {
				t.Errorf("return of user %d: %v", i, err)
			}
		}
		back := selectInt(t, pool, `SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`)
		removed.Add(int64(back))
		wait.Wait()
		if now := selectInt(t, pool, `SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`); now != back {
			t.Errorf("%d users who came back have settings, want %d", now, back)
		}
		execute(t, pool, `DELETE FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`)
		if got := removed.Load(); got != 3*n {
			t.Errorf("%d rows were removed or kept for users who came back, want %d", got, 3*n)
		}
		checkRemaining(t, pool, n)
	})
}
