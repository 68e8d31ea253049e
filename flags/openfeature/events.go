package openfeature

import (
	"context"
	"slices"
	"time"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// EventChannel returns the channel of the provider's events. It has events only
// between Init and Shutdown, and is never closed.
func (p *provider) EventChannel() <-chan of.Event { return p.events }

// Init is InitWithContext with a context that never ends.
func (p *provider) Init(evalCtx of.EvaluationContext) error {
	return p.InitWithContext(context.Background(), evalCtx)
}

// InitWithContext starts the events. It first waits until the view has flags or
// a pass of its watcher fails, but for at most 5 s. It returns an error if there
// are no flags to decide from; an event says when there are.
func (p *provider) InitWithContext(ctx context.Context, _ of.EvaluationContext) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopRun()
	waitForPass(ctx, p.view)
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop, p.stopped = stop, make(chan struct{})
	// OpenFeature itself makes the first event, from the result of Init. The
	// provider's events begin with the next pass, so that they come after it.
	next, isReady := p.view.Next(), p.view.Health().Loaded
	go p.run(runCtx, p.stopped, next, state{isReady: isReady, flags: flagsByName(p.view)})
	if !isReady {
		if err := ctx.Err(); err != nil {
			return err
		}
		return &of.ProviderInitError{ErrorCode: of.ProviderNotReadyCode, Message: "the flags cannot be read yet; all are off until they can"}
	}
	return nil
}

// maxInitWait is how long Init waits for the first pass at most.
const maxInitWait = 5 * time.Second

// waitForPass waits until the view has flags or an error.
func waitForPass(ctx context.Context, v *flags.View) {
	ctx, cancel := context.WithTimeout(ctx, maxInitWait)
	defer cancel()
	for {
		next := v.Next()
		if h := v.Health(); h.Loaded || h.Err != nil {
			return
		}
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
	}
}

// Shutdown ends the events. It does not stop the watcher, which the host runs.
func (p *provider) Shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopRun()
}

// ShutdownWithContext is Shutdown, which needs no context: it returns at once.
func (p *provider) ShutdownWithContext(context.Context) error {
	p.Shutdown()
	return nil
}

// stopRun stops run, if it runs, and waits for its end.
func (p *provider) stopRun() {
	if p.stop != nil {
		p.stop()
		<-p.stopped
		p.stop = nil
	}
}

// state is the state of a view. Events report its changes.
type state struct {
	isReady bool
	flags   map[string]*flags.Flag
}

func flagsByName(v *flags.View) map[string]*flags.Flag {
	all := map[string]*flags.Flag{}
	for _, f := range v.Flags() {
		all[f.Name] = f
	}
	return all
}

// run sends events about what each pass has changed since last, until ctx ends.
// While nobody receives an event, run waits. Afterwards it reports all changes of
// that time together.
func (p *provider) run(ctx context.Context, stopped chan<- struct{}, next <-chan struct{}, last state) {
	defer close(stopped)
	for {
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
		next = p.view.Next()
		current := state{isReady: p.view.Health().Err == nil, flags: flagsByName(p.view)}
		for _, event := range eventsBetween(last, current) {
			event.ProviderName = p.Metadata().Name
			select {
			case p.events <- event:
			case <-ctx.Done():
				return
			}
		}
		last = current
	}
}

// eventsBetween returns the events about what differs between two states.
func eventsBetween(last, current state) (events []of.Event) {
	switch {
	case current.isReady && !last.isReady:
		events = append(events, of.Event{EventType: of.ProviderReady, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags can be read"}})
	case !current.isReady && last.isReady:
		events = append(events, of.Event{EventType: of.ProviderStale, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags cannot be read; the last snapshot stays in use"}})
	}
	var names []string
	for name, f := range current.flags {
		if last.flags[name] != f {
			names = append(names, name)
		}
	}
	for name := range last.flags {
		if current.flags[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if names != nil {
		events = append(events, of.Event{EventType: of.ProviderConfigChange, ProviderEventDetails: of.ProviderEventDetails{Message: "flags have changed", FlagChanges: names}})
	}
	return events
}
