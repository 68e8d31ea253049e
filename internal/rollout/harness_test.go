package rollout_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
)

const flag = "automation" // the migrations create it

// onBoth runs a test on both databases. AUTOMATION_TEST_POOLER=1 puts PgBouncer in
// front of PostgreSQL.
func onBoth(t *testing.T, fn func(t *testing.T, h *harness)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, newHarness(t, sqlite(t))) })
	t.Run("postgres", func(t *testing.T) {
		dsn := schematest.Database(t)
		if os.Getenv("AUTOMATION_TEST_POOLER") == "1" {
			dsn = pgtest.PgBouncer(t, dsn)
		}
		fn(t, newHarness(t, pgtest.Open(t, dsn)))
	})
}

// sqlite returns a pool whose connections wait for each other's locks, as those
// of several processes do.
func sqlite(t testing.TB) *sqlx.DB {
	t.Helper()
	db := schematest.SQLite(t)
	db.SetMaxOpenConns(0)
	return db
}

// harness is a database with one controller. The test makes time pass by changing
// the times in the database.
type harness struct {
	*rollout.Store
	controller *rollout.Controller
	t          *testing.T
	db         *sqlx.DB
}

func newHarness(t *testing.T, db *sqlx.DB) *harness {
	t.Helper()
	schematest.Migrate(t, db)
	h := &harness{t: t, db: db}
	h.controller = h.newController(rollout.Options{})
	h.Store = h.controller.Store()
	return h
}

// newController returns another replica's controller. Its interval is an hour, so
// that a rollout is evaluated only when the test lets time pass.
func (h *harness) newController(o rollout.Options) *rollout.Controller {
	h.t.Helper()
	if o.Interval == 0 {
		o.Interval = time.Hour
	}
	c, err := rollout.New(h.db, o)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *harness) sql(statement string, args ...any) {
	h.t.Helper()
	if _, err := h.db.ExecContext(h.t.Context(), statement, args...); err != nil {
		h.t.Fatalf("%s: %v", statement, err)
	}
}

func (h *harness) isSQLite() bool { return strings.Contains(h.db.DriverName(), "sqlite") }

// after makes a pass as if d had passed since the last evaluation.
func (h *harness) after(d time.Duration) {
	h.t.Helper()
	h.elapse(d)
	if err := h.controller.Tick(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// elapse moves the last evaluation d into the past, with its windows, and makes the
// next one due.
func (h *harness) elapse(d time.Duration) {
	h.t.Helper()
	d += 5 * time.Millisecond // SQLite's clock has milliseconds, and rounds them
	ago := fmt.Sprintf(`now() - interval '%f seconds'`, d.Seconds())
	if h.isSQLite() {
		ago = fmt.Sprintf(`strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '-%.3f seconds')`, d.Seconds())
	}
	h.sql(`UPDATE automation_rollouts SET looked_at = ` + ago + `, next_at = ` + ago)
	var rows []struct{ Name, Watch string }
	if err := h.db.Select(&rows, `SELECT name, watch FROM automation_rollouts WHERE name IS NOT NULL`); err != nil {
		h.t.Fatal(err)
	}
	for _, r := range rows {
		var memory map[string]any
		if json.Unmarshal([]byte(r.Watch), &memory) != nil || memory["marks"] == nil {
			continue
		}
		for _, m := range memory["marks"].([]any) {
			mark := m.(map[string]any)
			at, err := time.Parse(time.RFC3339Nano, mark["at"].(string))
			if err != nil {
				h.t.Fatal(err)
			}
			mark["at"] = at.Add(-d)
		}
		b, err := json.Marshal(memory)
		if err != nil {
			h.t.Fatal(err)
		}
		h.sql(`UPDATE automation_rollouts SET watch = $2 WHERE name = $1`, r.Name, string(b))
	}
}

// evidence adds outcomes as the flush of another replica would.
func (h *harness) evidence(arm rollout.Arm, c rollout.Counts) {
	h.t.Helper()
	s := h.status()
	h.sql(`INSERT INTO automation_rollout_counts (rollout, bake, incarnation, arm, epoch, stage, outcomes, failures, provider_failures, shared_failures, ignored, slow, db_slow, latency_us, db_us, updated_at)
		SELECT $1, $2, 'other' || count(*), $3, $4, $5, $6, $7, $8, $9, 0, 0, 0, 0, 0, CURRENT_TIMESTAMP FROM automation_rollout_counts`,
		flag, h.run(), arm.String(), s.Epoch, s.Stage, c.Outcomes, c.Failures, c.ProviderFailures, c.SharedFailures)
}

// run returns the number of the stage run.
func (h *harness) run() (run int) {
	h.t.Helper()
	if err := h.db.Get(&run, `SELECT bake FROM automation_rollouts WHERE name = $1`, flag); err != nil {
		h.t.Fatal(err)
	}
	return run
}

// failingUsers records failures of n users in this minute.
func (h *harness) failingUsers(n int) {
	h.t.Helper()
	now := `date_trunc('minute', now())`
	if h.isSQLite() {
		now = `strftime('%Y-%m-%d %H:%M:00.000', 'now')`
	}
	for i := range n {
		h.sql(`INSERT INTO automation_rollout_failures (rollout, stage_run, kind, user_hash, minute)
			VALUES ($1, $2, 'failure', $3, `+now+`) ON CONFLICT DO NOTHING`, flag, h.run(), fmt.Sprint(i))
	}
}

// windows evaluates n windows of half a minute with the same evidence.
func (h *harness) windows(n int, exposed, control rollout.Counts) {
	h.t.Helper()
	h.after(0) // the first window begins here
	for range n {
		h.evidence(rollout.ArmExposed, exposed)
		h.evidence(rollout.ArmControl, control)
		h.failingUsers(7)
		h.after(30 * time.Second)
	}
}

// breach lets the stage fail for two minutes.
func (h *harness) breach() {
	h.t.Helper()
	h.windows(4, rollout.Counts{Outcomes: 20, Failures: 12}, rollout.Counts{Outcomes: 200, Failures: 2})
}

// hold lets an hour pass in which the stage is healthy.
func (h *harness) hold() {
	h.t.Helper()
	for range 4 {
		h.evidence(rollout.ArmExposed, rollout.Counts{Outcomes: 3})
		h.after(15 * time.Minute)
	}
}

func (h *harness) create(p rollout.Plan) {
	h.t.Helper()
	if _, err := h.Create(h.t.Context(), flag, p, "alice"); err != nil {
		h.t.Fatal(err)
	}
}

// do executes an operator's action.
func (h *harness) do(a rollout.Action) rollout.Event {
	h.t.Helper()
	e, err := h.Execute(h.t.Context(), flag, rollout.Command{Action: a, Actor: "alice"})
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

func (h *harness) status() rollout.Status {
	h.t.Helper()
	s, err := h.Get(h.t.Context(), flag)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *harness) flag() *flags.Flag {
	h.t.Helper()
	f, err := flags.NewStore(h.db, flags.StoreOptions{}).Get(h.t.Context(), flag)
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// expectStatus compares a rollout's state, its reason or what it waits for, its
// stage, and its flag.
func (h *harness) expectStatus(state rollout.State, why string, stage int, enabled bool, percentage flags.Percentage) {
	h.t.Helper()
	type status struct {
		State      rollout.State
		Why        string
		Stage      int
		Enabled    bool
		Percentage flags.Percentage
	}
	s, f := h.status(), h.flag()
	if diff := cmp.Diff(status{state, why, stage, enabled, percentage}, status{s.State, s.Reason + s.Waiting, s.Stage, f.Enabled, f.Percentage}); diff != "" {
		h.t.Errorf("the rollout and its flag (-want +got):\n%s", diff)
	}
}

// events returns the history, the oldest first, and checks its numbers.
func (h *harness) events() []rollout.Event {
	h.t.Helper()
	events, err := h.Events(h.t.Context(), flag, 1000, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	slices.Reverse(events)
	for i, e := range events {
		if e.Seq != int64(i+1) {
			h.t.Errorf("event %d has the Seq %d", i+1, e.Seq)
		}
	}
	return events
}

// expectActions compares the actions of the whole history.
func (h *harness) expectActions(want ...rollout.Action) {
	h.t.Helper()
	h.expectActionsOf(h.events(), want...)
}

func (h *harness) expectActionsOf(events []rollout.Event, want ...rollout.Action) {
	h.t.Helper()
	var got []rollout.Action
	for _, e := range events {
		got = append(got, e.Action)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		h.t.Errorf("the history's actions (-want +got):\n%s", diff)
	}
}

// start runs a controller until stop is called, or the test ends.
func (h *harness) start(c *rollout.Controller) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	var g sync.WaitGroup
	g.Go(func() { c.Run(ctx) })
	stop = func() { cancel(); g.Wait() }
	h.t.Cleanup(stop)
	return stop
}

// until polls until another goroutine or process has made ok true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(5 * time.Minute) // enough for a machine at a load of 50
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 5 minutes: %s", what)
		}
	}
}

// hourlyPlan returns a plan of four stages, with a hold of an hour and ten samples
// each.
func hourlyPlan() rollout.Plan {
	p := rollout.DefaultPlan()
	for i := range p.Stages {
		p.Stages[i].Hold, p.Stages[i].MinSamples = time.Hour, 10
	}
	return p
}
