package rollout_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/pgtest"
	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/schematest"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// pause is the least time between two requests of a replica.
const pause = 2 * time.Millisecond

// replica is the process of one of five: a watcher, a controller, and users
// whose requests fail from the line "fail" on standard input on. It says on
// standard output when the feature is switched on and off.
func replica(dsn string) {
	db := sqlx.MustOpen("postgres", dsn)
	offset, err := time.ParseDuration(os.Getenv("ROLLOUT_TEST_CLOCK"))
	if err != nil {
		panic(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	w := flags.NewWatcher(flags.NewStore(db, flags.StoreOptions{}), flags.Options{Interval: time.Second, Logger: log})
	c, err := rollout.New(db, rollout.Options{Interval: 100 * time.Millisecond, Logger: log, Now: func() time.Time { return time.Now().Add(offset) }})
	if err != nil {
		panic(err)
	}
	if fast := os.Getenv("ROLLOUT_TEST_INTERVAL"); fast != "" {
		interval, _ := time.ParseDuration(fast)
		if c, err = rollout.New(db, rollout.Options{Interval: interval, Logger: log}); err != nil {
			panic(err)
		}
	}
	var failing atomic.Bool
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			failing.Store(in.Text() == "fail")
		}
		os.Exit(0) // the test is gone
	}()
	go w.Run(context.Background())
	go c.Run(context.Background())
	on, user := false, 0
	rec := c.Recorder(flag)
	for range time.Tick(pause) {
		user++
		d := w.Decide(flag, strconv.Itoa(user))
		if arm, ok := rollout.ArmOf(d); ok {
			outcome := rollout.OutcomeSuccess
			if failing.Load() && arm == rollout.ArmExposed {
				outcome = rollout.OutcomeFailure
			}
			rec.Record(rollout.Sample{Arm: arm, Outcome: outcome, UserID: strconv.Itoa(user), Latency: time.Millisecond})
		}
		if everybody := w.Flag(flag); everybody != nil && everybody.Enabled != on {
			on = everybody.Enabled
			fmt.Println(map[bool]string{true: "on", false: "off"}[on])
		}
	}
}

// process is a replica as the test sees it.
type process struct {
	*proctest.Process

	off    chan struct{} // closed when it has said that the flag is off
	done   chan struct{} // closed when its output has been read
	frozen bool
}

func begin(t *testing.T, dsn string, env ...string) *process {
	t.Helper()
	p := &process{Process: proctest.Start(t, proctest.Self(nil, append(env, "ROLLOUT_TEST_REPLICA="+dsn)...)), off: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for line, ok := p.Line(); ok; line, ok = p.Line() {
			if line == "off" {
				close(p.off)
			}
		}
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) kill() {
	p.Kill()
	<-p.done
}

// freeze stops a process where it stands, until it is killed.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
	p.frozen = true
}

// progress is how far a rollout has come, as only an evaluation changes it that
// comes soon enough after the last one.
type progress struct {
	Run     int     `db:"bake"`
	Watched float64 `db:"watched"`
}

func (h *harness) progress() (p progress) {
	h.t.Helper()
	if err := h.db.Get(&p, `SELECT bake, watched FROM automation_rollouts WHERE name = $1`, flag); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// A whole plan in fast-forward by five processes, whose clocks are up to ten
// minutes off, and which are killed or frozen at random.
func TestReplicas_AgreeWhileKilledAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s: starts processes and kills them")
	}
	dsn := schematest.Database(t)
	l := newHarness(t, pgtest.Open(t, dsn))
	p := rollout.DefaultPlan()
	p.Stages[0].Percentage = flags.Percent // somebody internal
	for i := range p.Stages {
		p.Stages[i].Hold, p.Stages[i].MinSamples = 400*time.Millisecond, 30
	}
	p.Stages[2].Approval = true
	l.create(p)
	clock := func() string { return fmt.Sprintf("ROLLOUT_TEST_CLOCK=%ds", rand.IntN(1201)-600) }
	five := make([]*process, 5)
	for i := range five {
		five[i] = begin(t, dsn, clock())
	}
	started := time.Now()
	l.do(rollout.ActionStart)
	kills := 0
	next := time.NewTicker(100 * time.Millisecond)
	defer next.Stop()
	var seen progress
	until(t, "the plan is over", func() bool {
		s := l.status()
		// One that is frozen may hold the rollout's row. The others are left alone
		// until there is progress: on a busy machine they need long to start.
		select {
		case <-next.C:
			i, now := rand.IntN(len(five)), l.progress()
			if now == seen && !five[i].frozen {
				break
			}
			seen = now
			if rand.IntN(4) == 0 && !five[i].frozen {
				five[i].freeze(t)
				break
			}
			five[i].kill()
			five[i] = begin(t, dsn, clock())
			kills++
		default:
		}
		if s.Waiting == "approval" && !s.Approved {
			l.do(rollout.ActionApprove)
		}
		return s.State == rollout.StateCompleted
	})
	for _, one := range five {
		one.kill()
	}
	t.Logf("killed %d times", kills)
	// That few users came while replicas were dead is no fault.
	history := slices.DeleteFunc(l.events(), func(e rollout.Event) bool {
		return e.Action == "wait" && strings.Contains(e.Detail, "outcomes")
	})
	l.happenedIn(history, "create", rollout.ActionStart, "advance", "advance", "wait", rollout.ActionApprove, "advance", "complete")
	l.stands(rollout.StateCompleted, "", 3, true, 100*flags.Percent)
	// The flag's own audit: each of its changes once, all by the rollout.
	events, err := flagsql.NewAudit(l.db, sqldb.Options{}).Events(t.Context(), flag, 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	var shares []string
	for _, e := range events[:len(events)-1] {
		var after struct {
			Percentage json.Number `json:"rollout_percentage"`
		}
		if err := json.Unmarshal(e.After, &after); err != nil || e.By != "rollout:"+flag {
			t.Errorf("%+v, %v", e, err)
		}
		shares = append(shares, after.Percentage.String())
	}
	if diff := cmp.Diff("100.00 50.00 10.00 1.00", strings.Join(shares, " ")); diff != "" {
		t.Error(diff)
	}
	// No outcome is counted twice: no process has more than it could see in its time.
	var most int64
	if err := l.db.Get(&most, `SELECT max(outcomes) FROM automation_rollout_counts`); err != nil || most > int64(time.Since(started)/pause)+1 {
		t.Errorf("a process counted %d outcomes, %v", most, err)
	}
}

// With the intervals that are shipped. The two minutes that a breach takes pass
// in the database alone.
func TestReplicas_SwitchOffAfterABreach(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s: starts five processes")
	}
	dsn := schematest.Database(t)
	h := newHarness(t, pgtest.Open(t, dsn))
	p := rollout.DefaultPlan()
	p.OnBreach = rollout.BreachOff
	h.create(p)
	h.do(rollout.ActionStart)
	h.do(rollout.ActionSkip)
	h.do(rollout.ActionSkip)
	var five []*process
	for range 5 {
		five = append(five, begin(t, dsn, "ROLLOUT_TEST_CLOCK=0s", "ROLLOUT_TEST_INTERVAL=2s"))
	}
	until(t, "all have counted something", func() bool {
		var n int
		if err := h.db.Get(&n, `SELECT count(*) FROM automation_rollout_counts WHERE outcomes > 0 AND arm = 'exposed'`); err != nil {
			t.Fatal(err)
		}
		return n == 5
	})
	for _, one := range five {
		one.WriteLine(t, "fail")
	}
	until(t, "it is rolled back", func() bool {
		h.sql(`UPDATE automation_rollouts SET watch = jsonb_set(watch, '{marks}', (
			SELECT jsonb_agg(jsonb_set(m, '{at}', to_jsonb((m ->> 'at')::timestamptz - interval '100 milliseconds'))) FROM jsonb_array_elements(watch -> 'marks') AS m))
			WHERE jsonb_array_length(watch -> 'marks') > 0`)
		return h.status().State == rollout.StateRolledBack
	})
	begun := time.Now()
	for _, one := range five {
		<-one.off
	}
	t.Logf("all off %v later", time.Since(begun))
	h.stands(rollout.StateRolledBack, "breach", 2, false, 50*flags.Percent)
	if f := h.flag(); f.Notice != p.Notice {
		t.Errorf("the users are told %q", f.Notice)
	}
}
