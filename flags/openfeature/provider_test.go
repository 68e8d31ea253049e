package openfeature_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	of "github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"
	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/openfeature"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// table is a Source in memory that reads all of itself each time.
type table struct {
	mu   sync.Mutex
	rows map[string]*flags.Flag
	err  error
}

func tableOf(list ...*flags.Flag) *table {
	t := &table{rows: map[string]*flags.Flag{}}
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

func (s *table) Load(context.Context, map[string]flags.RowVersion) (flags.LoadResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := flags.LoadResult{Versions: map[string]flags.RowVersion{}}
	for name, f := range maps.All(s.rows) {
		l.Versions[name] = flags.RowVersion(string(rune('0' + f.Version)))
		l.Flags = append(l.Flags, f)
	}
	return l, s.err
}

func refresh(t *testing.T, w *flags.Watcher) {
	t.Helper()
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// client is one of a provider on the watcher, in an OpenFeature of its own.
func client(t *testing.T, w *flags.Watcher) *of.Client {
	t.Helper()
	refresh(t, w)
	api := isolated.NewAPI()
	t.Cleanup(func() {
		if err := api.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := api.SetProviderAndWait(t.Context(), openfeature.New(w.View)); err != nil {
		t.Fatal(err)
	}
	return api.NewClient()
}

const full = 100 * flags.Percent

func someFlags() *table {
	in, out := flags.NewIDs("in"), flags.NewIDs("out")
	return tableOf(
		&flags.Flag{Name: "half", Seed: "automation", Enabled: true, EnabledUserIDs: in, DisabledUserIDs: out, Percentage: 50 * flags.Percent, Version: 3},
		&flags.Flag{Name: "disabled", EnabledUserIDs: in, Percentage: full, Version: 4},
		&flags.Flag{Name: "all", Enabled: true, Percentage: full, Version: 1},
		&flags.Flag{Name: "none", Enabled: true, Version: 1},
		&flags.Flag{Name: "all but some", Enabled: true, DisabledUserIDs: out, Percentage: full, Version: 1},
	)
}

func TestProvider_BooleanEvaluation(t *testing.T) {
	type answer struct {
		Value   bool
		Variant string
		Reason  of.Reason
		Code    of.ErrorCode
		Version int64
	}
	ask := func(t *testing.T, c *of.Client, flag string, byDefault bool, about of.EvaluationContext) answer {
		t.Helper()
		got, err := c.BooleanValueDetails(t.Context(), flag, byDefault, about)
		if (err != nil) != (got.ErrorCode != "") || got.ErrorCode != "" && got.ErrorMessage == "" {
			t.Errorf("%s: the error is %v, the details %+v", flag, err, got)
		}
		version, _ := got.FlagMetadata.GetInt("version")
		return answer{got.Value, got.Variant, got.Reason, got.ErrorCode, version}
	}
	user := func(id string) of.EvaluationContext {
		return of.NewEvaluationContext(id, map[string]any{"plan": "pro"})
	}
	// Of the cohort "automation", 0 has bucket 277 and 1 has 8199.
	c := client(t, flags.NewWatcher(someFlags(), flags.Options{}))
	for name, q := range map[string]struct {
		flag  string
		about of.EvaluationContext
		want  answer
	}{
		"in by percentage":              {"half", user("0"), answer{true, "on", of.SplitReason, "", 3}},
		"out by percentage":             {"half", user("1"), answer{false, "off", of.SplitReason, "", 3}},
		"in by the list":                {"half", user("in"), answer{true, "on", of.TargetingMatchReason, "", 3}},
		"out by the list":               {"half", user("out"), answer{false, "off", of.TargetingMatchReason, "", 3}},
		"not enabled":                   {"disabled", user("in"), answer{false, "off", of.DisabledReason, "", 4}},
		"not enabled, for nobody":       {"disabled", of.EvaluationContext{}, answer{false, "off", of.DisabledReason, "", 4}},
		"everybody":                     {"all", user("0"), answer{true, "on", of.StaticReason, "", 1}},
		"nobody at all":                 {"none", user("0"), answer{false, "off", of.StaticReason, "", 1}},
		"everybody, but the list asked": {"all but some", user("0"), answer{true, "on", of.DefaultReason, "", 1}},
		"no targeting key":              {"half", of.NewTargetlessEvaluationContext(nil), answer{true, "", of.ErrorReason, of.TargetingKeyMissingCode, 0}},
		"an empty targeting key":        {"half", of.NewTargetlessEvaluationContext(map[string]any{of.TargetingKey: ""}), answer{true, "", of.ErrorReason, of.TargetingKeyMissingCode, 0}},
		"a targeting key that is none":  {"half", of.NewTargetlessEvaluationContext(map[string]any{of.TargetingKey: 7}), answer{true, "", of.ErrorReason, of.InvalidContextCode, 0}},
		"no such flag":                  {"other", user("0"), answer{true, "", of.ErrorReason, of.FlagNotFoundCode, 0}},
		"no such flag, for nobody":      {"other", of.EvaluationContext{}, answer{true, "", of.ErrorReason, of.FlagNotFoundCode, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			// The default is true, so that only a decision can be false.
			if diff := cmp.Diff(q.want, ask(t, c, q.flag, true, q.about)); diff != "" {
				t.Error(diff)
			}
		})
	}

	c = client(t, flags.NewWatcher(someFlags(), flags.Options{MasterOff: []string{"all"}}))
	for _, about := range []of.EvaluationContext{user("in"), {}} {
		if diff := cmp.Diff(answer{false, "off", of.DisabledReason, "", 1}, ask(t, c, "all", true, about)); diff != "" {
			t.Error("the master switch is off", diff)
		}
	}
}

func TestProvider_OtherTypesAreAMismatch(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{})
	c := client(t, w)
	about := of.NewEvaluationContext("0", nil)
	for flag, want := range map[string]of.ErrorCode{"half": of.TypeMismatchCode, "other": of.FlagNotFoundCode} {
		s, err := c.StringValueDetails(t.Context(), flag, "default", about)
		if err == nil || s.Value != "default" || s.ErrorCode != want || s.Reason != of.ErrorReason {
			t.Errorf("text: %+v, %v", s, err)
		}
		f, err := c.FloatValueDetails(t.Context(), flag, 1.5, about)
		if err == nil || f.Value != 1.5 || f.ErrorCode != want {
			t.Errorf("float: %+v, %v", f, err)
		}
		i, err := c.IntValueDetails(t.Context(), flag, 7, about)
		if err == nil || i.Value != 7 || i.ErrorCode != want {
			t.Errorf("int: %+v, %v", i, err)
		}
		o, err := c.ObjectValueDetails(t.Context(), flag, []int{1}, about)
		if diff := cmp.Diff([]int{1}, o.Value); err == nil || diff != "" || o.ErrorCode != want {
			t.Errorf("object: %+v, %v", o, err)
		}
	}
	if n := w.DecisionCounts(); n != nil {
		t.Errorf("what is no decision counts as one: %+v", n)
	}
}

func TestProvider_DecisionsAreCounted(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{})
	c := client(t, w)
	_ = c.Boolean(t.Context(), "half", false, of.NewEvaluationContext("in", nil))
	_ = c.Boolean(t.Context(), "half", false, of.EvaluationContext{}) // an error
	if diff := cmp.Diff([]flags.DecisionCount{{Flag: "half", Reason: flags.ReasonUserEnabled, Count: 1}}, w.DecisionCounts()); diff != "" {
		t.Error(diff)
	}
}

func TestProvider_HasMetadataAndNoHooks(t *testing.T) {
	p := newProvider(flags.NewWatcher(tableOf(), flags.Options{}).View)
	if p.Metadata().Name != "gateway-automation/flags" || len(p.Hooks()) != 0 {
		t.Errorf("%+v, %v", p.Metadata(), p.Hooks())
	}
	// Without Init, there is nothing to decide from and nothing to end.
	d := p.BooleanEvaluation(t.Context(), "half", true, of.FlattenedContext{of.TargetingKey: "0"})
	if !d.Value || d.ResolutionDetail().ErrorCode != of.ProviderNotReadyCode {
		t.Errorf("%+v", d)
	}
	p.Shutdown()
}

func TestProvider_InitFailsWithoutFlags(t *testing.T) {
	source := someFlags()
	source.err = errors.New("no database")
	w := flags.NewWatcher(source, flags.Options{})
	p := newProvider(w.View)
	defer p.Shutdown()
	_ = w.Refresh(t.Context())
	err := p.Init(of.EvaluationContext{})
	if initErr, ok := errors.AsType[*of.ProviderInitError](err); !ok || initErr.ErrorCode != of.ProviderNotReadyCode {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.InitWithContext(ctx, of.EvaluationContext{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	source.change(func() { source.err = nil })
	refresh(t, w)
	if err := p.Init(of.EvaluationContext{}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.ShutdownWithContext(t.Context()), p.ShutdownWithContext(t.Context())); err != nil {
		t.Error(err)
	}
	if err := p.Init(of.EvaluationContext{}); err != nil { // and again
		t.Error(err)
	}
}

// provider is what OpenFeature calls of one.
type provider interface {
	of.FeatureProvider
	of.ContextAwareStateHandler
}

func newProvider(v *flags.View) provider { return openfeature.New(v).(provider) }
