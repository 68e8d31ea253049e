package rollout_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
)

const flag = "automation" // is there after the migrations

// each runs a test on both databases. AUTOMATION_TEST_POOLER=1 puts PgBouncer in
// front of the one.
func each(t *testing.T, fn func(t *testing.T, l *lab)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, newLab(t, lite(t))) })
	t.Run("postgres", func(t *testing.T) {
		dsn := pgtest.Database(t)
		if os.Getenv("AUTOMATION_TEST_POOLER") == "1" {
			dsn = pgtest.PgBouncer(t, dsn)
		}
		fn(t, newLab(t, pgtest.Open(t, dsn)))
	})
}

func lite(t testing.TB) *sqlx.DB {
	t.Helper()
	db, err := sqlx.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "a.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// lab is a database with one controller, whose hours the test lets pass.
type lab struct {
	*rollout.Controller
	t  *testing.T
	db *sqlx.DB
}

func newLab(t *testing.T, db *sqlx.DB) *lab {
	t.Helper()
	if _, err := schema.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, db: db}
	l.Controller = l.controller(rollout.Options{})
	return l
}

// controller is another replica's. A pass takes an hour to be due again, so that
// only those that the test asks for look at anything.
func (l *lab) controller(o rollout.Options) *rollout.Controller {
	l.t.Helper()
	if o.Interval == 0 {
		o.Interval = time.Hour
	}
	c, err := rollout.New(l.db, o)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

func (l *lab) sql(statement string, args ...any) {
	l.t.Helper()
	if _, err := l.db.ExecContext(l.t.Context(), statement, args...); err != nil {
		l.t.Fatalf("%s: %v", statement, err)
	}
}

func (l *lab) sqlite() bool { return strings.Contains(l.db.DriverName(), "sqlite") }

// after lets time pass since the last look, and does a pass.
func (l *lab) after(d time.Duration) {
	l.t.Helper()
	l.elapse(d)
	if err := l.Tick(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) elapse(d time.Duration) {
	l.t.Helper()
	d += 5 * time.Millisecond // SQLite's clock has milliseconds, and rounds them
	ago := fmt.Sprintf(`now() - interval '%f seconds'`, d.Seconds())
	if l.sqlite() {
		ago = fmt.Sprintf(`strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-%.3f seconds')`, d.Seconds())
	}
	l.sql(`UPDATE automation_rollouts SET looked_at = ` + ago + `, next_at = ` + ago)
}

// evidence hands in outcomes as another replica would have.
func (l *lab) evidence(arm rollout.Arm, outcomes, failures int) {
	l.t.Helper()
	s := l.status()
	var bake int
	if err := l.db.Get(&bake, `SELECT bake FROM automation_rollouts WHERE name = $1`, flag); err != nil {
		l.t.Fatal(err)
	}
	l.sql(`INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
		SELECT $1, $2, 'other' || count(*), $3, $4, $5, $6, $7, 0, 0, 0, 0, 0, CURRENT_TIMESTAMP FROM automation_rollout_counts`,
		flag, bake, arm.String(), s.Epoch, s.Stage, outcomes, failures)
}

func (l *lab) create(p rollout.Plan) {
	l.t.Helper()
	if _, err := l.Create(l.t.Context(), flag, p, "alice"); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) do(a rollout.Action) rollout.Event {
	l.t.Helper()
	e, err := l.Do(l.t.Context(), flag, rollout.Order{Action: a, Actor: "alice"})
	if err != nil {
		l.t.Fatal(err)
	}
	return e
}

func (l *lab) status() rollout.Status {
	l.t.Helper()
	s, err := l.Get(l.t.Context(), flag)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

func (l *lab) flag() *flags.Flag {
	l.t.Helper()
	f, err := flags.NewStore(l.db, flags.StoreOptions{}).Get(l.t.Context(), flag)
	if err != nil {
		l.t.Fatal(err)
	}
	return f
}

// stands asserts a rollout's state and why, its stage, and the flag.
func (l *lab) stands(state rollout.State, why string, stage int, enabled bool, share flags.Percentage) {
	l.t.Helper()
	type standing struct {
		State   rollout.State
		Why     string
		Stage   int
		Enabled bool
		Share   flags.Percentage
	}
	s, f := l.status(), l.flag()
	if diff := cmp.Diff(standing{state, why, stage, enabled, share}, standing{s.State, s.Reason + s.Waiting, s.Stage, f.Enabled, f.Percentage}); diff != "" {
		l.t.Errorf("%s", diff)
	}
}

// events is the history, the oldest first, whose numbers it checks.
func (l *lab) events() []rollout.Event {
	l.t.Helper()
	events, err := l.Events(l.t.Context(), flag, 1000, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	slices.Reverse(events)
	for i, e := range events {
		if e.Seq != int64(i+1) {
			l.t.Errorf("event %d has the number %d", i+1, e.Seq)
		}
	}
	return events
}

func (l *lab) happened(want ...rollout.Action) {
	l.t.Helper()
	l.happenedIn(l.events(), want...)
}

func (l *lab) happenedIn(events []rollout.Event, want ...rollout.Action) {
	l.t.Helper()
	var got []rollout.Action
	for _, e := range events {
		got = append(got, e.Action)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Error(diff)
	}
}

// run runs a controller until stop is called, or the test ends.
func (l *lab) run(c *rollout.Controller) (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var g sync.WaitGroup
	g.Go(func() { c.Run(ctx) })
	stop = func() { cancel(); g.Wait() }
	l.t.Cleanup(stop)
	return stop
}

// until waits for what another goroutine or process is about to do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// hours is a plan of four stages of an hour that take ten samples each.
func hours() rollout.Plan {
	p := rollout.DefaultPlan()
	for i := range p.Stages {
		p.Stages[i].Hold, p.Stages[i].MinSamples = time.Hour, 10
	}
	return p
}
