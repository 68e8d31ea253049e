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

// table is a Source in memory. Each Load returns all of its flags.
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

// newClient refreshes the watcher and returns a client of an OpenFeature API
// whose only provider uses it.
func newClient(t *testing.T, w *flags.Watcher) *of.Client {
	t.Helper()
	refresh(t, w)
	api := isolated.NewAPI()
	t.Cleanup(func() {
		if err := api.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
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
	type result struct {
		Value   bool
		Variant string
		Reason  of.Reason
		Code    of.ErrorCode
		Version int64
	}
	// The default is true, so that false is always a decision.
	evaluate := func(t *testing.T, c *of.Client, flag string, evalCtx of.EvaluationContext) result {
		t.Helper()
		got, err := c.BooleanValueDetails(t.Context(), flag, true, evalCtx)
		hasErr := err != nil
		if hasErr != (got.ErrorCode != "") || hasErr != (got.ErrorMessage != "") {
			t.Errorf("flag %s: error %v, but details %+v", flag, err, got)
		}
		version, _ := got.FlagMetadata.GetInt("version")
		return result{got.Value, got.Variant, got.Reason, got.ErrorCode, version}
	}
	user := func(id string) of.EvaluationContext {
		return of.NewEvaluationContext(id, map[string]any{"plan": "pro"})
	}
	// With the seed "automation", user 0 has bucket 277 and user 1 has 8199.
	c := newClient(t, flags.NewWatcher(someFlags(), flags.Options{}))
	for name, q := range map[string]struct {
		flag    string
		evalCtx of.EvaluationContext
		want    result
	}{
		"in by percentage":                {"half", user("0"), result{true, "on", of.SplitReason, "", 3}},
		"out by percentage":               {"half", user("1"), result{false, "off", of.SplitReason, "", 3}},
		"in by the list":                  {"half", user("in"), result{true, "on", of.TargetingMatchReason, "", 3}},
		"out by the list":                 {"half", user("out"), result{false, "off", of.TargetingMatchReason, "", 3}},
		"not enabled":                     {"disabled", user("in"), result{false, "off", of.DisabledReason, "", 4}},
		"not enabled, without a user":     {"disabled", of.EvaluationContext{}, result{false, "off", of.DisabledReason, "", 4}},
		"everybody":                       {"all", user("0"), result{true, "on", of.StaticReason, "", 1}},
		"nobody":                          {"none", user("0"), result{false, "off", of.StaticReason, "", 1}},
		"everybody who is not listed":     {"all but some", user("0"), result{true, "on", of.DefaultReason, "", 1}},
		"no targeting key":                {"half", of.NewTargetlessEvaluationContext(nil), result{true, "", of.ErrorReason, of.TargetingKeyMissingCode, 0}},
		"an empty targeting key":          {"half", of.NewTargetlessEvaluationContext(map[string]any{of.TargetingKey: ""}), result{true, "", of.ErrorReason, of.TargetingKeyMissingCode, 0}},
		"a targeting key of another type": {"half", of.NewTargetlessEvaluationContext(map[string]any{of.TargetingKey: 7}), result{true, "", of.ErrorReason, of.InvalidContextCode, 0}},
		"no such flag":                    {"other", user("0"), result{true, "", of.ErrorReason, of.FlagNotFoundCode, 0}},
		"no such flag, without a user":    {"other", of.EvaluationContext{}, result{true, "", of.ErrorReason, of.FlagNotFoundCode, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(q.want, evaluate(t, c, q.flag, q.evalCtx)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}

	c = newClient(t, flags.NewWatcher(someFlags(), flags.Options{MasterOff: []string{"all"}}))
	for _, evalCtx := range []of.EvaluationContext{user("in"), {}} {
		if diff := cmp.Diff(result{false, "off", of.DisabledReason, "", 1}, evaluate(t, c, "all", evalCtx)); diff != "" {
			t.Errorf("result with the master switch off (-want +got):\n%s", diff)
		}
	}
}

func TestProvider_OtherTypesAreAMismatch(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{})
	c := newClient(t, w)
	evalCtx := of.NewEvaluationContext("0", nil)
	for flag, want := range map[string]of.ErrorCode{"half": of.TypeMismatchCode, "other": of.FlagNotFoundCode} {
		s, err := c.StringValueDetails(t.Context(), flag, "default", evalCtx)
		if err == nil || s.Value != "default" || s.ErrorCode != want || s.Reason != of.ErrorReason {
			t.Errorf("StringValueDetails of flag %s: %+v, %v; want the default with error %s", flag, s, err, want)
		}
		f, err := c.FloatValueDetails(t.Context(), flag, 1.5, evalCtx)
		if err == nil || f.Value != 1.5 || f.ErrorCode != want {
			t.Errorf("FloatValueDetails of flag %s: %+v, %v; want the default with error %s", flag, f, err, want)
		}
		i, err := c.IntValueDetails(t.Context(), flag, 7, evalCtx)
		if err == nil || i.Value != 7 || i.ErrorCode != want {
			t.Errorf("IntValueDetails of flag %s: %+v, %v; want the default with error %s", flag, i, err, want)
		}
		o, err := c.ObjectValueDetails(t.Context(), flag, []int{1}, evalCtx)
		if diff := cmp.Diff([]int{1}, o.Value); err == nil || diff != "" || o.ErrorCode != want {
			t.Errorf("ObjectValueDetails of flag %s: %+v, %v; want the default with error %s", flag, o, err, want)
		}
	}
	if n := w.DecisionCounts(); n != nil {
		t.Errorf("DecisionCounts %+v, want none: nothing was decided", n)
	}
}

func TestProvider_DecisionsAreCounted(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{})
	c := newClient(t, w)
	_ = c.Boolean(t.Context(), "half", false, of.NewEvaluationContext("in", nil))
	_ = c.Boolean(t.Context(), "half", false, of.EvaluationContext{}) // an error
	if diff := cmp.Diff([]flags.DecisionCount{{Flag: "half", Reason: flags.ReasonUserEnabled, Count: 1}}, w.DecisionCounts()); diff != "" {
		t.Errorf("DecisionCounts (-want +got):\n%s", diff)
	}
}

func TestProvider_HasMetadataAndNoHooks(t *testing.T) {
	p := newProvider(flags.NewWatcher(tableOf(), flags.Options{}).View)
	if p.Metadata().Name != "gateway-automation/flags" || len(p.Hooks()) != 0 {
		t.Errorf("metadata %+v, hooks %v; want the name gateway-automation/flags and no hooks", p.Metadata(), p.Hooks())
	}
}

func TestProvider_IsNotReadyBeforeInit(t *testing.T) {
	p := newProvider(flags.NewWatcher(tableOf(), flags.Options{}).View)
	d := p.BooleanEvaluation(t.Context(), "half", true, of.FlattenedContext{of.TargetingKey: "0"})
	if !d.Value || d.ResolutionDetail().ErrorCode != of.ProviderNotReadyCode {
		t.Errorf("%+v, want the default with PROVIDER_NOT_READY", d)
	}
	p.Shutdown() // does nothing
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
		t.Errorf("Init without flags returned %v, want a ProviderInitError with PROVIDER_NOT_READY", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.InitWithContext(ctx, of.EvaluationContext{}); !errors.Is(err, context.Canceled) {
		t.Errorf("InitWithContext returned %v, want context.Canceled", err)
	}
	source.change(func() { source.err = nil })
	refresh(t, w)
	if err := p.Init(of.EvaluationContext{}); err != nil {
		t.Errorf("Init with flags: %v", err)
	}
	if err := errors.Join(p.ShutdownWithContext(t.Context()), p.ShutdownWithContext(t.Context())); err != nil {
		t.Errorf("two shutdowns: %v", err)
	}
	if err := p.Init(of.EvaluationContext{}); err != nil {
		t.Errorf("Init after Shutdown: %v", err)
	}
}

// provider is a provider as OpenFeature calls it.
type provider interface {
	of.FeatureProvider
	of.ContextAwareStateHandler
}

func newProvider(v *flags.View) provider { return openfeature.New(v).(provider) }
