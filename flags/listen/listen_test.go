package listen_test

import (
	"context"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/flags/listen"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs listen.Run until the test ends. It returns a channel that receives a
// value for each call of changed.
func run(tb testing.TB, dsn string, o listen.Options) <-chan struct{} {
	tb.Helper()
	changes := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- listen.Run(ctx, dsn, func() { changes <- struct{}{} }, o) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run returned %v, want nil", err)
		}
	})
	return changes
}

func wait(t *testing.T, changes <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-changes:
	case <-time.After(5 * time.Minute):
		t.Fatal("no change after " + what)
	}
}

func change(t *testing.T, db *sqlx.DB, percentage int) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), `UPDATE feature_flags SET rollout_percentage = $1 WHERE feature_name = 'automation'`, percentage); err != nil {
		t.Fatal(err)
	}
}

func migrated(tb testing.TB, dsn string) *sqlx.DB {
	tb.Helper()
	db := pgtest.Open(tb, dsn)
	schematest.Migrate(tb, db)
	return db
}

func TestRun_ReportsChangesBySQL(t *testing.T) {
	dsn := schematest.Database(t)
	db := migrated(t, dsn)
	changes := run(t, dsn, listen.Options{})
	wait(t, changes, "LISTEN")
	for i := range 5 {
		change(t, db, i+1)
		wait(t, changes, "a change")
	}
}

func TestRun_ListensAgainAfterTheServerWasKilledOrFrozen(t *testing.T) {
	cluster := pgtest.Start(t, pgtest.Options{})
	dsn := cluster.Database(t)
	db := migrated(t, dsn)
	changes := run(t, dsn, listen.Options{KeepAlive: 300 * time.Millisecond, MaxBackoff: 200 * time.Millisecond})
	wait(t, changes, "LISTEN")
	cluster.Kill()
	cluster.Restart()
	wait(t, changes, "a restart")

	// Run leaves a frozen server when a ping fails, and connects after the thaw.
	cluster.Freeze()
	frozen := time.NewTimer(time.Second)
	<-frozen.C
	cluster.Thaw()
	wait(t, changes, "a thaw")
	for len(changes) > 0 {
		<-changes
	}
	change(t, db, 7)
	wait(t, changes, "a change after a thaw")
}

func TestRun_ErrorOfAnInvalidDSNHidesItsPassword(t *testing.T) {
	err := listen.Run(t.Context(), "postgres://u:hunter2@[::1:x/db", func() {}, listen.Options{})
	if err == nil || err.Error() != "listen: not a valid PostgreSQL DSN" {
		t.Errorf("error %v, want listen: not a valid PostgreSQL DSN", err)
	}
}
