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

// pause is the time between two requests of a replica.
const pause = 2 * time.Millisecond

// replica is the main function of a child process. It has a watcher, a controller,
// and users, whose requests fail after the line "fail" on standard input. It writes
// "on" and "off" to standard output when the flag changes.
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
		if f := w.Flag(flag); f != nil && f.Enabled != on {
			on = f.Enabled
			fmt.Println(map[bool]string{true: "on", false: "off"}[on])
		}
	}
}

// process is a replica's process.
type process struct {
	*proctest.Process

	off    chan struct{} // closed when the process has written "off"
	done   chan struct{} // closed when all output has been read
	frozen bool
}

func startReplica(t *testing.T, dsn string, env ...string) *process {
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

// freeze stops a process until it is killed.
func (p *process) freeze(t *testing.T) {
	t.Helper()
	p.Signal(t, syscall.SIGSTOP)
	p.frozen = true
}

// progress is the part of a rollout that changes only in an evaluation soon after
// the one before.
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

// Five processes carry out a plan with holds of 0.4 s. Their clocks are up to ten
// minutes off, and the test kills or freezes them at random.
func TestReplicas_AgreeWhileKilledAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s: starts processes and kills them")
	}
	dsn := schematest.Database(t)
	h := newHarness(t, pgtest.Open(t, dsn))
	p := rollout.DefaultPlan()
	p.Stages[0].Percentage = flags.Percent // so that the first stage has users
	for i := range p.Stages {
		p.Stages[i].Hold, p.Stages[i].MinSamples = 400*time.Millisecond, 30
	}
	p.Stages[2].Approval = true
	h.create(p)
	clock := func() string { return fmt.Sprintf("ROLLOUT_TEST_CLOCK=%ds", rand.IntN(1201)-600) }
	replicas := make([]*process, 5)
	for i := range replicas {
		replicas[i] = startReplica(t, dsn, clock())
	}
	started := time.Now()
	h.do(rollout.ActionStart)
	kills := 0
	next := time.NewTicker(100 * time.Millisecond)
	defer next.Stop()
	var seen progress
	until(t, "the rollout is completed", func() bool {
		s := h.status()
		// After a kill, wait for progress before the next: on a busy machine, replicas
		// need long to start. A frozen replica may hold the rollout's row and prevent
		// progress, so it can always be killed.
		select {
		case <-next.C:
			i, now := rand.IntN(len(replicas)), h.progress()
			if now == seen && !replicas[i].frozen {
				break
			}
			seen = now
			if rand.IntN(4) == 0 && !replicas[i].frozen {
				replicas[i].freeze(t)
				break
			}
			replicas[i].kill()
			replicas[i] = startReplica(t, dsn, clock())
			kills++
		default:
		}
		if s.Waiting == "approval" && !s.Approved {
			h.do(rollout.ActionApprove)
		}
		return s.State == rollout.StateCompleted
	})
	for _, r := range replicas {
		r.kill()
	}
	t.Logf("killed %d times", kills)
	// While replicas are down there may be too few outcomes, which is correct.
	history := slices.DeleteFunc(h.events(), func(e rollout.Event) bool {
		return e.Action == "wait" && strings.Contains(e.Detail, "outcomes")
	})
	h.expectActionsOf(history, "create", rollout.ActionStart, "advance", "advance", "wait", rollout.ActionApprove, "advance", "complete")
	h.expectStatus(rollout.StateCompleted, "", 3, true, 100*flags.Percent)
	// The flag's audit has each of the rollout's changes once, and no others.
	events, err := flagsql.NewAudit(h.db, sqldb.Options{}).Events(t.Context(), flag, 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	var percentages []string
	for _, e := range events[:len(events)-1] {
		var after struct {
			Percentage json.Number `json:"rollout_percentage"`
		}
		if err := json.Unmarshal(e.After, &after); err != nil || e.By != "rollout:"+flag {
			t.Errorf("a change of the flag is %+v, %v; want one by the rollout", e, err)
		}
		percentages = append(percentages, after.Percentage.String())
	}
	if diff := cmp.Diff("100.00 50.00 10.00 1.00", strings.Join(percentages, " ")); diff != "" {
		t.Errorf("the flag's percentages, the newest first (-want +got):\n%s", diff)
	}
	// If outcomes were counted twice, a process would have more than it had time for.
	var counted int64
	limit := int64(time.Since(started)/pause) + 1
	if err := h.db.Get(&counted, `SELECT max(outcomes) FROM automation_rollout_counts`); err != nil || counted > limit {
		t.Errorf("a process counted %d outcomes, %v; it had time for %d", counted, err, limit)
	}
}

// The controllers have the default interval. The test makes the two minutes pass that
// a breach takes, by changing the times in the database.
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
	var replicas []*process
	for range 5 {
		replicas = append(replicas, startReplica(t, dsn, "ROLLOUT_TEST_CLOCK=0s", "ROLLOUT_TEST_INTERVAL=2s"))
	}
	until(t, "all replicas have counted outcomes", func() bool {
		var n int
		if err := h.db.Get(&n, `SELECT count(*) FROM automation_rollout_counts WHERE outcomes > 0 AND arm = 'exposed'`); err != nil {
			t.Fatal(err)
		}
		return n == 5
	})
	for _, r := range replicas {
		r.WriteLine(t, "fail")
	}
	until(t, "the rollout is rolled back", func() bool {
		h.sql(`UPDATE automation_rollouts SET watch = jsonb_set(watch, '{marks}', (
			SELECT jsonb_agg(jsonb_set(m, '{at}', to_jsonb((m ->> 'at')::timestamptz - interval '100 milliseconds'))) FROM jsonb_array_elements(watch -> 'marks') AS m))
			WHERE jsonb_array_length(watch -> 'marks') > 0`)
		return h.status().State == rollout.StateRolledBack
	})
	begun := time.Now()
	for _, r := range replicas {
		<-r.off
	}
	t.Logf("all replicas had the flag off %v after the rollback", time.Since(begun))
	h.expectStatus(rollout.StateRolledBack, "breach", 2, false, 50*flags.Percent)
	if f := h.flag(); f.Notice != p.Notice {
		t.Errorf("the flag's notice is %q, want the plan's, %q", f.Notice, p.Notice)
	}
}
