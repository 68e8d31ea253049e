package flags_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// table is a Source in memory.
type table struct {
	mu    sync.Mutex
	rows  map[string]*flags.Flag
	bad   map[string]error // rows that cannot be read
	err   error            // the database is away
	loads []time.Time
}

func tableOf(list ...*flags.Flag) *table {
	t := &table{rows: map[string]*flags.Flag{}, bad: map[string]error{}}
	for _, f := range list {
		t.rows[f.Name] = f
	}
	return t
}

func (s *table) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *table) Load(ctx context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads = append(s.loads, time.Now())
	if err := errors.Join(ctx.Err(), s.err); err != nil {
		return flags.LoadResult{}, err
	}
	l := flags.LoadResult{Versions: map[string]flags.RowVersion{}}
	for _, name := range slices.Sorted(maps.Keys(s.rows)) {
		stamp := flags.RowVersion(strconv.FormatInt(s.rows[name].Version, 10))
		if err := s.bad[name]; err != nil {
			stamp += flags.RowVersion(err.Error())
		}
		l.Versions[name] = stamp
		switch {
		case known[name] == stamp:
		case s.bad[name] != nil:
			l.Bad = append(l.Bad, &flags.RowError{Name: name, Err: s.bad[name]})
		default:
			l.Flags = append(l.Flags, s.rows[name])
		}
	}
	return l, nil
}

func everybody(version int64) *flags.Flag {
	return &flags.Flag{Name: "a", Enabled: true, Percentage: 100 * flags.Percent, Version: version, UpdatedBy: "ops"}
}

func nobody(version int64) *flags.Flag {
	return &flags.Flag{Name: "a", Version: version, UpdatedBy: "dba", Seed: "s", EnabledUserIDs: flags.NewIDs("secret-user")}
}

// running runs a watcher in a bubble until the test ends.
func running(t *testing.T, w *flags.Watcher) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	synctest.Wait()
}

func TestWatcher_SeesAChangeWithinAnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{})
		if d := w.Decide("a", "1"); d != (flags.Decision{Bucket: -1}) || w.Flag("a") != nil || w.Health().Loaded {
			t.Errorf("before the first pass: %+v", d)
		}
		running(t, w)
		for version := int64(2); version < 20; version += 2 {
			for i, f := range []*flags.Flag{nobody(version), everybody(version + 1)} {
				source.change(func() { source.rows["a"] = f })
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				if d := w.Decide("a", "1"); d.On != (i == 1) || d.Version != f.Version {
					t.Errorf("%v after version %d was written: %+v", 1100*time.Millisecond, f.Version, d)
				}
			}
		}
	})
}

func TestWatcher_PollsWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tableOf()
		w := flags.NewWatcher(source, flags.Options{Interval: time.Minute})
		running(t, w)
		time.Sleep(100 * time.Minute)
		source.change(func() {
			if n := len(source.loads); n < 92 || n > 111 {
				t.Errorf("%d loads in 100 intervals", n)
			}
			pauses := map[time.Duration]bool{}
			for i, at := range source.loads[1:] {
				pauses[at.Sub(source.loads[i])] = true
			}
			if len(pauses) < 50 {
				t.Errorf("the polls do not jitter: %v", pauses)
			}
		})
	})
}

func TestWatcher_TriggerRefreshesAtOnceAndNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{Interval: time.Hour})
		for range 100 {
			w.Trigger() // nothing runs yet
		}
		running(t, w)
		synctest.Wait()
		source.change(func() {
			if n := len(source.loads); n < 1 || n > 2 {
				t.Errorf("%d loads, want the first and one for 100 triggers", n)
			}
			source.rows["a"] = nobody(2)
		})
		begun := time.Now()
		for range 100 {
			w.Trigger()
		}
		synctest.Wait()
		if d := w.Decide("a", "1"); d.On || time.Since(begun) != 0 {
			t.Errorf("after a trigger: %+v", d)
		}
	})
}

func TestWatcher_LogsEachProblemOnceAndKeepsTheLastFlags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		lines := func() string {
			defer log.Reset()
			return log.String()
		}
		logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{Logger: logger, Interval: 10 * time.Second})
		running(t, w)
		step := func(do func(), want string) {
			t.Helper()
			source.change(do)
			time.Sleep(time.Minute)
			synctest.Wait()
			if diff := cmp.Diff(want, lines()); diff != "" {
				t.Error(diff)
			}
		}
		step(func() {}, "level=INFO msg=\"flag changed\" flag=a was=missing is=\"version 1: enabled true, 100 %, 0 in, 0 out, seed \\\"a\\\"\" by=ops\n")
		step(func() { source.err = errors.New("no database") }, "level=WARN msg=\"flags cannot be read; the last ones stay in use\" error=\"no database\"\n")
		if h := w.Health(); h.Err == nil || h.Age < 50*time.Second || h.Age > 75*time.Second || !w.Decide("a", "1").On {
			t.Errorf("away for a minute: %+v", h)
		}
		source.change(func() { source.err = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := lines(); !strings.HasPrefix(got, "level=INFO msg=\"flags can be read again\" after=") || strings.Count(got, "\n") != 1 {
			t.Error(got)
		}
		step(func() { source.bad["a"] = errors.New("nonsense") }, "level=ERROR msg=\"a flag's row is malformed\" flag=a error=nonsense\n")
		if h := w.Health(); len(h.Bad) != 1 || h.Err != nil || !w.Decide("a", "1").On {
			t.Errorf("a malformed row: %+v", h)
		}
		step(func() { source.bad["a"] = errors.New("more nonsense") }, "level=ERROR msg=\"a flag's row is malformed\" flag=a error=\"more nonsense\"\n")
		step(func() { delete(source.bad, "a"); source.rows["a"] = nobody(2) },
			"level=INFO msg=\"flag changed\" flag=a was=\"version 1: enabled true, 100 %, 0 in, 0 out, seed \\\"a\\\"\" is=\"version 2: enabled false, 0 %, 1 in, 0 out, seed \\\"s\\\"\" by=dba\n")
		step(func() { delete(source.rows, "a") }, "level=INFO msg=\"flag changed\" flag=a was=\"version 2: enabled false, 0 %, 1 in, 0 out, seed \\\"s\\\"\" is=missing by=\"\"\n")
		if d := w.Decide("a", "1"); d.Reason != flags.ReasonMissing {
			t.Errorf("a deleted flag: %+v", d)
		}
	})
}

func TestWatcher_ForgetsAMalformedRowThatIsDeleted(t *testing.T) {
	source := tableOf(everybody(1))
	source.bad["a"] = errors.New("nonsense")
	w := refreshed(t, flags.NewWatcher(source, flags.Options{}))
	if h := w.Health(); len(h.Bad) != 1 || w.Decide("a", "1").Reason != flags.ReasonMissing {
		t.Errorf("never good: %+v", h)
	}
	delete(source.rows, "a")
	refreshed(t, w)
	if h := w.Health(); len(h.Bad) != 0 {
		t.Errorf("still bad: %+v", h)
	}
}

func TestView_MasterSwitchComesFirstAndConcernsItsFlagsAlone(t *testing.T) {
	w := flags.NewWatcher(tableOf(everybody(1), &flags.Flag{Name: "b", Enabled: true, Percentage: 100 * flags.Percent}), flags.Options{MasterOff: []string{"a"}})
	if d := w.Decide("a", "1"); d != (flags.Decision{Reason: flags.ReasonMasterOff, Bucket: -1}) {
		t.Errorf("before the first pass: %+v", d)
	}
	refreshed(t, w)
	d := w.Decide("a", "1")
	if d != (flags.Decision{Reason: flags.ReasonMasterOff, Bucket: -1, Version: 1}) {
		t.Errorf("%+v", d)
	}
	if d := w.Decide("b", "1"); d.Reason != flags.ReasonInPercentage {
		t.Errorf("the master switch of one flag switched another: %+v", d)
	}
	before := w.DecisionCounts()
	d.Bucket = flags.Bucket("a", "1")
	if e := w.Explain("a", "1"); e.Decision != d || e.Flag != "a" || !e.Steps[0].Decides {
		t.Errorf("%+v", e)
	}
	if diff := cmp.Diff(before, w.DecisionCounts()); diff != "" {
		t.Error("an explanation counts as a decision", diff)
	}
}

func TestView_DecisionCountsByFlagAndReason(t *testing.T) {
	source := tableOf(everybody(1), &flags.Flag{Name: "b", Enabled: true, EnabledUserIDs: flags.NewIDs("1")})
	w := refreshed(t, flags.NewWatcher(source, flags.Options{}))
	decide := func() {
		for _, name := range []string{"a", "b", "c", "d"} {
			w.Decide(name, "1")
			w.Decide(name, "2")
		}
	}
	decide()
	source.rows["a"] = nobody(2)
	delete(source.rows, "b")
	refreshed(t, w)
	decide()
	if diff := cmp.Diff([]flags.DecisionCount{
		{"", flags.ReasonMissing, 8},
		{"a", flags.ReasonDisabled, 2},
		{"a", flags.ReasonInPercentage, 2},
		{"b", flags.ReasonMissing, 2},
		{"b", flags.ReasonUserEnabled, 1},
		{"b", flags.ReasonOutsidePercentage, 1},
	}, w.DecisionCounts()); diff != "" {
		t.Error(diff)
	}
}

// slow holds the first load's answer until told.
type slow struct {
	*table
	first          atomic.Bool
	taken, release chan struct{}
}

func (s *slow) Load(ctx context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error) {
	l, err := s.table.Load(ctx, known)
	if s.first.CompareAndSwap(false, true) {
		close(s.taken)
		<-s.release
	}
	return l, err
}

func TestWatcher_OvertakenPassDoesNotRestoreOldFlags(t *testing.T) {
	source := &slow{table: tableOf(everybody(1)), taken: make(chan struct{}), release: make(chan struct{})}
	w := flags.NewWatcher(source, flags.Options{})
	overtaken := make(chan error)
	go func() { overtaken <- w.Refresh(t.Context()) }()
	<-source.taken
	source.change(func() { source.rows["a"] = nobody(2) })
	refreshed(t, w)
	close(source.release)
	if err := <-overtaken; err != nil {
		t.Fatal(err)
	}
	if d := w.Decide("a", "1"); d.Version != 2 {
		t.Errorf("%+v", d)
	}
}

func TestWatcher_CanceledRefreshIsNoProblem(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1)), flags.Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if h := w.Health(); h.Err != nil {
		t.Errorf("%+v", h)
	}
}

func TestWatcher_StartsAndStopsManyTimes(t *testing.T) {
	source := tableOf(everybody(1))
	w := flags.NewWatcher(source, flags.Options{Interval: time.Microsecond})
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { w.Run(ctx) })
			all.Go(func() {
				for version := range int64(20) {
					source.change(func() { source.rows["a"] = everybody(version) })
					w.Trigger()
					w.Decide("a", "1")
					w.Health()
					w.DecisionCounts()
				}
			})
		}
		refreshed(t, w)
		cancel()
		all.Wait()
	}
}
