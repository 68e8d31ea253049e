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

// received is what handlers were called with.
type received struct {
	mu     sync.Mutex
	events []string
}

func (h *received) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer func() { h.events = nil }()
	return h.events
}

// on receives every event of the client.
func (h *received) on(c *of.Client) {
	for _, kind := range []of.EventType{of.ProviderReady, of.ProviderStale, of.ProviderError, of.ProviderConfigChange} {
		callback := func(d of.EventDetails) {
			h.mu.Lock()
			defer h.mu.Unlock()
			text := string(kind)
			for _, name := range d.FlagChanges {
				text += " " + name
			}
			if d.ProviderName != "gateway-automation/flags" || d.Message == "" {
				text += " by nobody"
			}
			h.events = append(h.events, text)
		}
		c.AddHandler(kind, &callback)
	}
}

// running runs the watcher until the test ends.
func running(t *testing.T, w *flags.Watcher) {
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
		running(t, w)
		api := isolated.NewAPI()
		defer func() { _ = api.Shutdown(context.Background()) }()
		p := newProvider(w.View)
		if err := api.SetProviderAndWait(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		c, named := api.NewClient(), api.NewClient(of.WithDomain("billing"))
		var h, other received
		synctest.Wait()
		h.on(c)
		step := func(do func(), state of.State, want ...string) {
			t.Helper()
			source.change(do)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if diff := cmp.Diff(want, h.all()); diff != "" {
				t.Error(diff)
			}
			if c.State() != state {
				t.Errorf("state %v, want %v", c.State(), state)
			}
		}
		away := errors.New("away")
		step(func() {}, of.ReadyState, "PROVIDER_READY")
		step(func() { source.rows["half"] = &flags.Flag{Name: "half", Version: 4}; delete(source.rows, "all") }, of.ReadyState, "PROVIDER_CONFIGURATION_CHANGED all half")
		step(func() { source.rows["new"] = &flags.Flag{Name: "new"} }, of.ReadyState, "PROVIDER_CONFIGURATION_CHANGED new")
		step(func() { source.err = away }, of.StaleState, "PROVIDER_STALE")
		if d, err := c.BooleanValueDetails(t.Context(), "none", true, of.NewEvaluationContext("0", nil)); err != nil || d.Value {
			t.Errorf("stale: %+v, %v", d, err)
		}
		step(func() { source.err = nil }, of.ReadyState, "PROVIDER_READY")

		// One provider for two domains, of which the second comes while it is stale.
		step(func() { source.err = away }, of.StaleState, "PROVIDER_STALE")
		if err := api.SetProviderAndWait(t.Context(), p, of.WithDomain("billing")); err != nil {
			t.Fatal(err)
		}
		other.on(named)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if named.State() != of.StaleState || c.State() != of.StaleState {
			t.Errorf("states %v and %v", named.State(), c.State())
		}
	})
}

func TestProvider_BecomesReadyLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := someFlags()
		source.err = errors.New("away")
		w := flags.NewWatcher(source, flags.Options{})
		running(t, w)
		api := isolated.NewAPI()
		defer func() { _ = api.Shutdown(context.Background()) }()
		if err := api.SetProviderAndWait(t.Context(), openfeature.New(w.View)); err == nil {
			t.Fatal("ready without flags")
		}
		c := api.NewClient()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d, err := c.BooleanValueDetails(t.Context(), "all", false, of.NewEvaluationContext("0", nil)); err == nil || d.ErrorCode != of.ProviderNotReadyCode || c.State() != of.ErrorState {
			t.Errorf("%+v, %v, state %v", d, err, c.State())
		}
		source.change(func() { source.err = nil })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if on := c.Boolean(t.Context(), "all", false, of.NewEvaluationContext("0", nil)); !on || c.State() != of.ReadyState {
			t.Errorf("%t, state %v", on, c.State())
		}
	})
}

func TestProvider_UnreceivedEventsBlockNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := someFlags()
		w := flags.NewWatcher(source, flags.Options{})
		running(t, w)
		p := newProvider(w.View)
		if err := p.Init(of.EvaluationContext{}); err != nil {
			t.Fatal(err)
		}
		for version := range int64(10) {
			source.change(func() { source.rows["all"] = &flags.Flag{Name: "all", Version: version + 2} })
			time.Sleep(2 * time.Second)
			if f := w.Flag("all"); f.Version != version+2 {
				t.Fatalf("%+v", f)
			}
		}
		p.Shutdown()
	})
}

func TestProvider_StartsAndStopsManyTimes(t *testing.T) {
	w := flags.NewWatcher(someFlags(), flags.Options{Interval: time.Microsecond})
	running(t, w)
	p := newProvider(w.View)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				if err := p.Init(of.EvaluationContext{}); err != nil {
					t.Error(err)
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
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newProvider(flags.NewWatcher(someFlags(), flags.Options{}).View)
		defer p.Shutdown()
		begun := time.Now()
		if err := p.Init(of.EvaluationContext{}); err == nil || time.Since(begun) != 5*time.Second {
			t.Errorf("nobody runs the watcher: %v after %v", err, time.Since(begun))
		}
	})
}
