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

// child makes the test binary a replica that cleans up, for another test.
const child = "CLEANUP_TEST_CHILD"

func TestReplicaProcess(t *testing.T) {
	dsn := os.Getenv(child)
	if dsn == "" {
		t.Skip("it is run as a process of its own by another test")
	}
	pool := pgtest.Open(t, dsn)
	c := newCleaner(t, pool, cleanup.Options{Batch: 50, DefaultOptIn: true, DefaultDuration: 2 * time.Hour, Progress: func(cleanup.Report) {
		_, _ = os.Stdout.WriteString("batch\n")
	}})
	pass(t, c, false)
}

func TestPass_KilledInTheMiddleDeletesNothingElse(t *testing.T) {
	const n = 2000
	dsn := schematest.Database(t)
	pool := migrated(t, pgtest.Open(t, dsn))
	fill(t, pool, n)

	for i := range 3 {
		p := proctest.Start(t, proctest.Self([]string{"-test.run=^TestReplicaProcess$"}, child+"="+dsn))
		for batches := 0; batches < 10*(i+1); {
			line, ok := p.Line()
			if !ok {
				t.Fatal("it ended before it was killed")
			}
			if strings.HasPrefix(line, "batch") {
				batches++
			}
		}
		p.Kill()
		if number(t, pool, `SELECT count(*) FROM automation_jobs WHERE lease_until > now()`) == 0 {
			t.Fatal("it was not killed in the middle")
		}
		run(t, pool, `UPDATE automation_jobs SET lease_until = {now}`) // a minute later
	}
	pass(t, newCleaner(t, pool, cleanup.Options{}), false)
	left(t, pool, n)
}

func TestPass_OfTwoReplicasDeletesEachRowOnce(t *testing.T) {
	schematest.OnBoth(t, func(t *testing.T, pool *sqlx.DB) {
		const n = 1000
		fill(t, pool, n)
		var removed atomic.Int64
		var wait sync.WaitGroup
		for range 2 {
			c := newCleaner(t, pool, cleanup.Options{Batch: 100})
			wait.Go(func() {
				for removed.Load() < 3*n {
					r, _ := c.Pass(t.Context(), false) // ErrBusy, most of the time
					removed.Add(r.Total())
				}
			})
		}
		// Users who come back in the middle keep what they chose.
		for i := range 50 {
			_, err := pool.ExecContext(t.Context(), `UPDATE user_automation_settings SET deleted_at = NULL, user_id = 'out-back-' || user_id, is_enabled = FALSE
				WHERE user_id = (SELECT min(user_id) FROM user_automation_settings WHERE deleted_at IS NOT NULL)`)
			if err != nil {
				t.Error(i, err)
			}
		}
		back := number(t, pool, `SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`)
		removed.Add(int64(back))
		wait.Wait()
		if now := number(t, pool, `SELECT count(*) FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`); now != back {
			t.Errorf("%d users who came back have settings, want %d", now, back)
		}
		run(t, pool, `DELETE FROM user_automation_settings WHERE user_id LIKE 'out-back-%'`)
		if got := removed.Load(); got != 3*n {
			t.Errorf("%d rows were removed or came back, want %d", got, 3*n)
		}
		left(t, pool, n)
	})
}
