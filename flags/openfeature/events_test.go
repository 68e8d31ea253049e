package openfeature_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	of "github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/isolated"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/openfeature"
)

// eventRecorder records the events of a client.
type eventRecorder struct {
	mu     sync.Mutex
	events []string
}

// take returns the events since the last take.
func (r *eventRecorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.events = nil }()
	return r.events
}

// subscribe records every event of the client from now on.
func (r *eventRecorder) subscribe(c *of.Client) {
	for _, kind := range []of.EventType{of.ProviderReady, of.ProviderStale, of.ProviderError, of.ProviderConfigChange} {
		callback := func(d of.EventDetails) {
			r.mu.Lock()
			defer r.mu.Unlock()
			text := string(kind)
			for _, name := range d.FlagChanges {
				text += " " + name
			}
			if d.ProviderName != "gateway-automation/flags" || d.Message == "" {
				text += " without provider or message"
			}
			r.events = append(r.events, text)
		}
		c.AddHandler(kind, &callback)
	}
}

// run runs the watcher until the test ends.
func run(t *testing.T, w *flags.Watcher) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		w.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() { cancel(); <-ended })
}

func TestProvider_SendsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := someFlags()
		w := flags.NewWatcher(source, flags.Options{})
		run(t, w)
		api := isolated.NewAPI()
		defer func() { _ = api.Shutdown(context.Background()) }()
		p := newProvider(w.View)
		if err := api.SetProviderAndWait(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		c := api.NewClient()
		var recorder eventRecorder
		synctest.Wait()
		recorder.subscribe(c)
		step := func(do func(), state of.State, want ...string) {
			t.Helper()
			source.change(do)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if diff := cmp.Diff(want, recorder.take()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if c.State() != state {
				t.Errorf("the client's state is %v, want %v", c.State(), state)
			}
		}
		unavailable := errors.New("unavailable")
		step(func() {}, of.ReadyState, "PROVIDER_READY")
		step(func() { source.rows["half"] = &flags.Flag{Name: "half", Version: 4}; delete(source.rows, "all") }, of.ReadyState, "PROVIDER_CONFIGURATION_CHANGED all half")
		step(func() { source.rows["new"] = &flags.Flag{Name: "new"} }, of.ReadyState, "PROVIDER_CONFIGURATION_CHANGED new")
		step(func() { source.err = unavailable }, of.StaleState, "PROVIDER_STALE")
		if d, err := c.BooleanValueDetails(t.Context(), "none", true, of.NewEvaluationContext("0", nil)); err != nil || d.Value {
			t.Errorf("a decision by stale flags: %+v, %v; want off without an error", d, err)
		}
		step(func() { source.err = nil }, of.ReadyState, "PROVIDER_READY")

		// The provider is set for a second domain while it is stale.
		step(func() { source.err = unavailable }, of.StaleState, "PROVIDER_STALE")
		if err := api.SetProviderAndWait(t.Context(), p, of.WithDomain("billing")); err != nil {
			t.Fatal(err)
		}
		billing := api.NewClient(of.WithDomain("billing"))
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if billing.State() != of.StaleState || c.State() != of.StaleState {
			t.Errorf("the states are %v and %v, want stale for both domains", billing.State(), c.State())
		}
	})
}

func TestProvider_BecomesReadyLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := someFlags()
		source.err = errors.New("unavailable")
		w := flags.NewWatcher(source, flags.Options{})
		run(t, w)
		api := isolated.NewAPI()
		defer func() { _ = api.Shutdown(context.Background()) }()
		if err := api.SetProviderAndWait(t.Context(), openfeature.New(w.View)); err == nil {
			t.Fatal("the provider is ready without flags")
		}
		c := api.NewClient()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d, err := c.BooleanValueDetails(t.Context(), "all", false, of.NewEvaluationContext("0", nil)); err == nil || d.ErrorCode != of.ProviderNotReadyCode || c.State() != of.ErrorState {
			t.Errorf("without flags: %+v, %v, state %v; want PROVIDER_NOT_READY in the error state", d, err, c.State())
		}
		source.change(func() { source.err = nil })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if on := c.Boolean(t.Context(), "all", false, of.NewEvaluationContext("0", nil)); !on || c.State() != of.ReadyState {
			t.Errorf("with flags: %t, state %v; want true in the ready state", on, c.State())
		}
	})
}

func TestProvider_UnreceivedEventsDoNotBlockTheWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := someFlags()
		w := flags.NewWatcher(source, flags.Options{})
		run(t, w)
		p := newProvider(w.View)
		if err := p.Init(of.EvaluationContext{}); err != nil {
			t.Fatal(err)
		}
		for version := range int64(10) {
			source.change(func() { source.rows["all"] = &flags.Flag{Name: "all", Version: version + 2} })
			time.Sleep(2 * time.Second)
			if f := w.Flag("all"); f.Version != version+2 {
				t.Fatalf("2 s after the change the flag is %+v, want version %d", f, version+2)
			}
		}
		p.Shutdown()
	})
}

func TestProvider_StartsAndStopsManyTimes(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{Interval: time.Microsecond})
	run(t, w)
	p := newProvider(w.View)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if err := p.Init(of.EvaluationContext{}); err != nil {
					t.Errorf("Init: %v", err)
				}
				p.Shutdown()
			}
		})
	}
	all.Wait()
}

func TestProvider_InitWaitsForTheFirstPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := flags.NewWatcher(someFlags(), flags.Options{})
		p := newProvider(w.View)
		defer p.Shutdown()
		time.AfterFunc(3*time.Second, func() { _ = w.Refresh(t.Context()) })
		if err := p.Init(of.EvaluationContext{}); err != nil {
			t.Errorf("Init before the first pass, which succeeds after 3 s: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(flags.NewWatcher(someFlags(), flags.Options{}).View)
		defer p.Shutdown()
		start := time.Now()
		if err := p.Init(of.EvaluationContext{}); err == nil || time.Since(start) != 5*time.Second {
			t.Errorf("without a running watcher Init returned %v after %v, want an error after 5s", err, time.Since(start))
		}
	})
}
