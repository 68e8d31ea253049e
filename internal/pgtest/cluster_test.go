package pgtest_test

import (
	"context"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/jmoiron/sqlx"
)

// insert inserts rows, each in its own transaction, until one fails. It returns how many commits
// were acknowledged, and calls after for each.
func insert(ctx context.Context, db *sqlx.DB, after func(acknowledged int)) (acknowledged int) {
	for {
		tx, err := db.BeginTxx(ctx, nil)
		if err != nil {
			return acknowledged
		}
		if _, err := tx.ExecContext(ctx, "INSERT INTO journal DEFAULT VALUES"); err != nil {
			_ = tx.Rollback() // the connection is gone already
			return acknowledged
		}
		if tx.Commit() != nil {
			return acknowledged
		}
		acknowledged++
		after(acknowledged)
	}
}

func TestCluster_KeepsAcknowledgedRowsWhenKilled(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]pgtest.Options{
		"fast":    {},
		"durable": {Durable: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := pgtest.Start(t, options)
			dsn := c.Database(t)
			db := pgtest.Open(t, dsn)
			execute(t, db, "CREATE TABLE journal (id bigserial)")

			enough, done := make(chan struct{}), make(chan int)
			go func() {
				done <- insert(t.Context(), pgtest.Open(t, dsn), func(n int) {
					if n == 100 {
						close(enough)
					}
				})
			}()
			<-enough
			c.Kill()
			c.Kill() // nothing left to kill
			acknowledged := <-done
			if err := db.PingContext(t.Context()); err == nil {
				t.Fatal("a killed server answers")
			}
			c.Restart()
			rows := scalar[int](t, pgtest.Open(t, dsn), "SELECT count(*) FROM journal")
			if rows < acknowledged || rows > acknowledged+1 {
				t.Errorf("%d rows after the restart, want the %d acknowledged and at most one more", rows, acknowledged)
			}
		})
	}
}

func TestCluster_AnswersAgainAfterThaw(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	db := pgtest.Open(t, c.DSN("postgres"))
	execute(t, db, "SELECT 1") // opens a connection

	c.Freeze()
	c.Freeze() // must have no effect
	answered := make(chan error, 1)
	go func() { _, err := db.ExecContext(t.Context(), "SELECT 1"); answered <- err }()
	select {
	case err := <-answered:
		t.Errorf("a frozen server answered: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	c.Thaw()
	c.Thaw() // must have no effect
	if err := <-answered; err != nil {
		t.Errorf("after the thaw the statement failed: %v", err)
	}
}

func TestCluster_CanBeKilledStoppedAndRemovedWhileFrozen(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	c.Freeze()
	c.Kill()
	c.Restart()
	c.Freeze()
	c.Stop()
	c.Stop() // nothing left to stop
	c.Restart()
	execute(t, pgtest.Open(t, c.DSN("postgres")), "SELECT 1")
	c.Freeze() // the test's clean-up must remove a frozen server
}

func TestStart_LetsSettingsOverrideTheDefaults(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_connections": "7", "application_name": "it's a test"}})
	db := pgtest.Open(t, c.DSN("postgres"))
	for setting, want := range map[string]string{"max_connections": "7", "application_name": "it's a test", "fsync": "off", "synchronous_commit": "on"} {
		if got := scalar[string](t, db, "SHOW "+setting); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
	durable := pgtest.Open(t, pgtest.Start(t, pgtest.Options{Durable: true}).DSN("postgres"))
	if got := scalar[string](t, durable, "SHOW fsync"); got != "on" {
		t.Errorf("fsync of a durable cluster is %q, want on", got)
	}
}
