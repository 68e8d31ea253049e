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
	bad   map[string]error // why a row cannot be read, by name
	err   error            // why the table cannot be read
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
		rowVersion := flags.RowVersion(strconv.FormatInt(s.rows[name].Version, 10))
		if err := s.bad[name]; err != nil {
			rowVersion += flags.RowVersion(err.Error())
		}
		l.Versions[name] = rowVersion
		switch {
		case known[name] == rowVersion: // unchanged
		case s.bad[name] != nil:
			l.Bad = append(l.Bad, &flags.RowError{Name: name, Err: s.bad[name]})
		default:
			l.Flags = append(l.Flags, s.rows[name])
		}
	}
	return l, nil
}

// everybody returns the flag a, on for everybody.
func everybody(version int64) *flags.Flag {
	return &flags.Flag{Name: "a", Enabled: true, Percentage: 100 * flags.Percent, Version: version, UpdatedBy: "ops"}
}

// nobody returns the flag a, off for everybody.
func nobody(version int64) *flags.Flag {
	return &flags.Flag{Name: "a", Version: version, UpdatedBy: "dba", Seed: "s", EnabledUserIDs: flags.NewIDs("secret-user")}
}

// run starts a watcher in a synctest bubble, and waits for its first pass. The
// watcher runs until the test ends.
func run(t *testing.T, w *flags.Watcher) {
	t.Helper()
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
			t.Errorf("before the first pass: decision %+v, flag %v, health %+v; want none of them set", d, w.Flag("a"), w.Health())
		}
		run(t, w)
		for version := int64(2); version < 20; version += 2 {
			for i, f := range []*flags.Flag{nobody(version), everybody(version + 1)} {
				source.change(func() { source.rows["a"] = f })
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				if d := w.Decide("a", "1"); d.On != (i == 1) || d.Version != f.Version {
					t.Errorf("1.1 s after version %d was written: decision %+v, want that version", f.Version, d)
				}
			}
		}
	})
}

func TestWatcher_PollsWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tableOf()
		w := flags.NewWatcher(source, flags.Options{Interval: time.Minute})
		run(t, w)
		time.Sleep(100 * time.Minute)
		source.change(func() {
			if n := len(source.loads); n < 92 || n > 111 {
				t.Errorf("%d loads in 100 intervals, want 92 to 111", n)
			}
			pauses := map[time.Duration]bool{}
			for i, at := range source.loads[1:] {
				pauses[at.Sub(source.loads[i])] = true
			}
			if len(pauses) < 50 {
				t.Errorf("%d different pauses between polls, want at least 50: %v", len(pauses), pauses)
			}
		})
	})
}

func TestWatcher_TriggerRefreshesAtOnceAndNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := tableOf(everybody(1))
		w := flags.NewWatcher(source, flags.Options{Interval: time.Hour})
		for range 100 {
			w.Trigger() // before Run
		}
		run(t, w)
		source.change(func() {
			if n := len(source.loads); n < 1 || n > 2 {
				t.Errorf("%d loads, want one at the start and at most one for 100 triggers", n)
			}
			source.rows["a"] = nobody(2)
		})
		start := time.Now()
		for range 100 {
			w.Trigger()
		}
		synctest.Wait()
		if d := w.Decide("a", "1"); d.On || time.Since(start) != 0 {
			t.Errorf("%v after a trigger: decision %+v; want off at once", time.Since(start), d)
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
		run(t, w)
		step := func(do func(), want string) {
			t.Helper()
			source.change(do)
			time.Sleep(time.Minute)
			synctest.Wait()
			if diff := cmp.Diff(want, lines()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
		}
		step(func() {}, "level=INFO msg=\"flag changed\" flag=a was=missing is=\"version 1: enabled true, 100 %, 0 in, 0 out, seed \\\"a\\\"\" by=ops\n")
		step(func() { source.err = errors.New("no database") }, "level=WARN msg=\"flags cannot be read; the last snapshot stays in use\" error=\"no database\"\n")
		if h, d := w.Health(), w.Decide("a", "1"); h.Err == nil || h.Age < 50*time.Second || h.Age > 75*time.Second || !d.On {
			t.Errorf("after a minute without the database: health %+v, decision %+v; want an error, an age of about a minute, and on", h, d)
		}
		source.change(func() { source.err = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := lines(); !strings.HasPrefix(got, "level=INFO msg=\"flags can be read again\" after=") || strings.Count(got, "\n") != 1 {
			t.Errorf("log %q; want one line that flags can be read again", got)
		}
		step(func() { source.bad["a"] = errors.New("nonsense") }, "level=ERROR msg=\"a flag's row is malformed\" flag=a error=nonsense\n")
		if h, d := w.Health(), w.Decide("a", "1"); len(h.Bad) != 1 || h.Err != nil || !d.On {
			t.Errorf("with a malformed row: health %+v, decision %+v; want one bad row, no error, and on", h, d)
		}
		step(func() { source.bad["a"] = errors.New("more nonsense") }, "level=ERROR msg=\"a flag's row is malformed\" flag=a error=\"more nonsense\"\n")
		step(func() { delete(source.bad, "a"); source.rows["a"] = nobody(2) },
			"level=INFO msg=\"flag changed\" flag=a was=\"version 1: enabled true, 100 %, 0 in, 0 out, seed \\\"a\\\"\" is=\"version 2: enabled false, 0 %, 1 in, 0 out, seed \\\"s\\\"\" by=dba\n")
		step(func() { delete(source.rows, "a") }, "level=INFO msg=\"flag changed\" flag=a was=\"version 2: enabled false, 0 %, 1 in, 0 out, seed \\\"s\\\"\" is=missing by=\"\"\n")
		if d := w.Decide("a", "1"); d.Reason != flags.ReasonMissing {
			t.Errorf("decision about a deleted flag %+v, want ReasonMissing", d)
		}
	})
}

func TestWatcher_RemovesADeletedRowFromTheMalformedOnes(t *testing.T) {
	source := tableOf(everybody(1))
	source.bad["a"] = errors.New("nonsense")
	w := refreshed(t, flags.NewWatcher(source, flags.Options{}))
	if h, d := w.Health(), w.Decide("a", "1"); len(h.Bad) != 1 || d.Reason != flags.ReasonMissing {
		t.Errorf("with a malformed row: health %+v, decision %+v; want one bad row and ReasonMissing", h, d)
	}
	delete(source.rows, "a")
	refreshed(t, w)
	if h := w.Health(); len(h.Bad) != 0 {
		t.Errorf("after the row was deleted: health %+v, want no bad rows", h)
	}
}

func TestView_MasterSwitchWinsForItsFlagsOnly(t *testing.T) {
	w := flags.NewWatcher(tableOf(everybody(1), &flags.Flag{Name: "b", Enabled: true, Percentage: 100 * flags.Percent}), flags.Options{MasterOff: []string{"a"}})
	if d := w.Decide("a", "1"); d != (flags.Decision{Reason: flags.ReasonMasterOff, Bucket: -1}) {
		t.Errorf("before the first pass: decision %+v, want ReasonMasterOff", d)
	}
	refreshed(t, w)
	d := w.Decide("a", "1")
	if d != (flags.Decision{Reason: flags.ReasonMasterOff, Bucket: -1, Version: 1}) {
		t.Errorf("decision %+v, want ReasonMasterOff at version 1", d)
	}
	if d := w.Decide("b", "1"); d.Reason != flags.ReasonInPercentage {
		t.Errorf("the master switch of a switches b off: decision %+v", d)
	}
	before := w.DecisionCounts()
	want := d
	want.Bucket = flags.Bucket("a", "1")
	if e := w.Explain("a", "1"); e.Decision != want || e.Flag != "a" || !e.Steps[0].Decides {
		t.Errorf("explanation %+v; want decision %+v by the first step", e, want)
	}
	if diff := cmp.Diff(before, w.DecisionCounts()); diff != "" {
		t.Errorf("Explain changes DecisionCounts (-before +after):\n%s", diff)
	}
}

func TestView_DecisionCountsByFlagAndReason(t *testing.T) {
	source := tableOf(everybody(1), &flags.Flag{Name: "b", Enabled: true, EnabledUserIDs: flags.NewIDs("1")})
	w := refreshed(t, flags.NewWatcher(source, flags.Options{}))
	decideAll := func() {
		for _, name := range []string{"a", "b", "c", "d"} {
			w.Decide(name, "1")
			w.Decide(name, "2")
		}
	}
	decideAll()
	source.rows["a"] = nobody(2)
	delete(source.rows, "b")
	refreshed(t, w)
	decideAll()
	if diff := cmp.Diff([]flags.DecisionCount{
		{"", flags.ReasonMissing, 8},
		{"a", flags.ReasonDisabled, 2},
		{"a", flags.ReasonInPercentage, 2},
		{"b", flags.ReasonMissing, 2},
		{"b", flags.ReasonUserEnabled, 1},
		{"b", flags.ReasonOutsidePercentage, 1},
	}, w.DecisionCounts()); diff != "" {
		t.Errorf("DecisionCounts (-want +got):\n%s", diff)
	}
}

// slowTable is a table whose first Load reads the rows at once, but returns them
// only after release is closed.
type slowTable struct {
	*table
	isLaterLoad   atomic.Bool
	read, release chan struct{}
}

func (s *slowTable) Load(ctx context.Context, known map[string]flags.RowVersion) (flags.LoadResult, error) {
	l, err := s.table.Load(ctx, known)
	if s.isLaterLoad.Swap(true) {
		return l, err
	}
	close(s.read)
	<-s.release
	return l, err
}

func TestWatcher_OvertakenPassDoesNotRestoreOldFlags(t *testing.T) {
	source := &slowTable{table: tableOf(everybody(1)), read: make(chan struct{}), release: make(chan struct{})}
	w := flags.NewWatcher(source, flags.Options{})
	overtaken := make(chan error)
	go func() { overtaken <- w.Refresh(t.Context()) }()
	<-source.read
	source.change(func() { source.rows["a"] = nobody(2) })
	refreshed(t, w)
	close(source.release)
	if err := <-overtaken; err != nil {
		t.Fatal(err)
	}
	if d := w.Decide("a", "1"); d.Version != 2 {
		t.Errorf("after a pass that read version 1: decision %+v, want version 2", d)
	}
}

func TestWatcher_CanceledRefreshIsNotAHealthProblem(t *testing.T) {
	w := refreshed(t, flags.NewWatcher(tableOf(everybody(1)), flags.Options{}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Refresh returned %v, want context.Canceled", err)
	}
	if h := w.Health(); h.Err != nil {
		t.Errorf("health %+v, want no error", h)
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
