package metrics_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeModule is a module in one state.
type fakeModule struct {
	flags      *flags.Watcher
	snapshot   automation.Snapshot
	stats      func(context.Context) (session.Stats, error)
	optInReads int
	rollouts   []rollout.Status
}

func (m *fakeModule) Flags() *flags.View            { return m.flags.View }
func (m *fakeModule) Snapshot() automation.Snapshot { return m.snapshot }

func (m *fakeModule) Stats(ctx context.Context) (session.Stats, error) { return m.stats(ctx) }

func (m *fakeModule) OptInCounts(context.Context) (on, off int64, err error) {
	m.optInReads++
	return 30, 12, nil
}

func (m *fakeModule) RolloutStatus(context.Context) ([]rollout.Status, error) {
	return m.rollouts, nil
}

// source is a flags.Source with that many flags. The first is the module's own.
type source int

func (n source) Load(context.Context, map[string]flags.RowVersion) (flags.LoadResult, error) {
	l := flags.LoadResult{Versions: map[string]flags.RowVersion{}}
	for i := range n {
		name := automation.FlagName
		if i > 0 {
			name = fmt.Sprintf("flag-%03d", int(i))
		}
		f := &flags.Flag{Name: name, Enabled: true, Percentage: 1250, Version: 7}
		l.Versions[name] = "1"
		l.Flags = append(l.Flags, f)
	}
	return l, nil
}

// newModule returns a healthy module with n flags, each of which has decided once.
func newModule(t *testing.T, n source) *fakeModule {
	t.Helper()
	now := time.Unix(1_700_000_000, 0)
	w := flags.NewWatcher(n, flags.Options{Now: func() time.Time { return now }})
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	loaded, _ := n.Load(t.Context(), nil)
	for _, f := range loaded.Flags {
		w.Decide(f.Name, "alice")
	}
	w.Decide("nonsense", "alice")
	return &fakeModule{flags: w,
		rollouts: []rollout.Status{{Name: "automation", State: "running", Waiting: "samples", Stage: 1, Percentage: 1000,
			Watched: time.Minute, Hold: 24 * time.Hour, LookedAt: now,
			ExposedOutcomes: 90, ExposedFailures: 2, ControlOutcomes: 900, ControlFailures: 9}},
		snapshot: automation.Snapshot{MasterOn: true,
			Components: map[string]automation.Component{"node": {OK: true}, "run": {OK: true}, "database": {Detail: "the last read failed"}},
			Mapping:    mapping.Health{Entries: 9, LoadedAt: now, FeedModels: 4, FeedAt: now, FeedErr: errors.New("away")},
			Pool:       sql.DBStats{MaxOpenConnections: 20, InUse: 3, Idle: 2, WaitCount: 5, WaitDuration: 1500 * time.Millisecond}},
		stats: func(context.Context) (session.Stats, error) {
			return session.Stats{ByState: map[string]int64{"open": 4, "unknown": 1}, Held: 2, Abandoned: 1, Due: 3, Overdue: 90 * time.Second}, nil
		},
	}
}

// newObserved returns a Recorder that has observed events of every kind.
func newObserved(options metrics.Options) *metrics.Recorder {
	r := metrics.New(options)
	o := r.Observer()
	o.SQL("sessions.claim", time.Millisecond, 3*time.Millisecond, nil)
	o.SQL("settings.put", 0, time.Second, fmt.Errorf("x: %w", settings.ErrUnavailable))
	o.SQL("settings.put", 0, time.Second, fmt.Errorf("x: %w", settings.ErrOutcomeUnknown))
	o.SQL("settings.put", 0, time.Millisecond, settings.ErrConflict)
	o.API(outcome.Outcome{Cause: outcome.None, Route: "GET /api/v1/automation/settings", Status: 200, Latency: 4 * time.Millisecond})
	o.API(outcome.Outcome{Cause: outcome.Client, Status: 404, Latency: time.Millisecond})
	o.API(outcome.Outcome{Cause: outcome.Client, Route: "GET /api/v1/automation/settings", Status: 401, Latency: time.Millisecond})
	o.Chat(outcome.Outcome{Cause: outcome.None, Overhead: 20 * time.Millisecond})
	o.Chat(outcome.Outcome{Cause: outcome.None, Code: outcome.SkipOptedOut, Skipped: true, Overhead: time.Microsecond})
	o.Chat(outcome.Outcome{Cause: outcome.Client, Code: outcome.CodeInvalidKey, Overhead: time.Microsecond})
	o.Settings(settings.Settings{IsEnabled: true}, settings.Settings{})
	for _, e := range []session.Event{
		{Kind: session.Acquired, Result: "idle", Took: 2 * time.Millisecond},
		{Kind: session.Opened, Cause: "request", Result: "opened", Took: 3 * time.Second, Asked: time.Hour},
		{Kind: session.Opened, Cause: "renewal", Result: "refused", Took: time.Second, Asked: time.Hour},
		{Kind: session.Opened, Cause: "request", Result: "not_needed"},
		{Kind: session.Collided}, {Kind: session.TakenOver}, {Kind: session.Adopted}, {Kind: session.GivenUp, Result: "lost"},
		{Kind: session.LeaseLost}, {Kind: session.Retired, Result: "expired"}, {Kind: session.Replaced, Result: "opened"}, {Kind: session.Mismatched, Result: "length"}, {Kind: session.CooledDown}, {Kind: session.Closed, Result: "closed"},
		{Kind: session.Maintained, Cause: "opens", Result: "ok"}, {Kind: session.Maintained, Cause: "closes", Result: "failed"},
	} {
		o.Session(e)
	}
	o.Cleanup(map[string]int64{"automation_sessions": 40}, time.Second, nil)
	o.Cleanup(nil, 0, cleanup.ErrBusy)
	o.Cleanup(nil, 0, errors.New("no"))
	return r
}

// gather returns the metrics of a scrape by name. It fails the test if a collected
// metric does not match its description.
func gather(t *testing.T, r prometheus.Collector) map[string]*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(r); err != nil {
		t.Fatal(err)
	}
	list, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families := map[string]*dto.MetricFamily{}
	for _, f := range list {
		families[f.GetName()] = f
	}
	return families
}

// value returns the sum of the series with the given labels, which are names and
// values in turn. A histogram's value is its number of observations.
func value(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) (sum float64) {
	t.Helper()
	found := false
series:
	for _, m := range families[name].GetMetric() {
		valueOf := map[string]string{}
		for _, l := range m.GetLabel() {
			valueOf[l.GetName()] = l.GetValue()
		}
		for i := 0; i < len(labels); i += 2 {
			if valueOf[labels[i]] != labels[i+1] {
				continue series
			}
		}
		found = true
		sum += float64(m.GetHistogram().GetSampleCount()) + m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	if !found {
		t.Errorf("no series of %s has the labels %v", name, labels)
		return -1
	}
	return sum
}
