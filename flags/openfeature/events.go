package openfeature

import (
	"context"
	"slices"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// EventChannel is where the provider's events come from between Init and
// Shutdown. It is never closed.
func (p *Provider) EventChannel() <-chan of.Event { return p.events }

// Init is InitWithContext without an end.
func (p *Provider) Init(about of.EvaluationContext) error {
	return p.InitWithContext(context.Background(), about)
}

// InitWithContext reads the flags, unless the watcher has them already, and
// begins with the events. It fails if there are no flags to decide from; the
// provider becomes ready, and says so, once the watcher has some.
func (p *Provider) InitWithContext(ctx context.Context, _ of.EvaluationContext) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	if !p.watcher.Health().Loaded {
		_ = p.watcher.Refresh(ctx) // Health says it as well
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop, p.stopped = stop, make(chan struct{})
	// OpenFeature makes the first event itself, of what we return. Ours begin
	// with the pass after that, lest they overtake it.
	next, ready := p.watcher.Next(), p.watcher.Health().Loaded
	go p.watch(watching, p.stopped, next, known{ready: ready, flags: byName(p.watcher)})
	if !ready {
		if err := ctx.Err(); err != nil {
			return err
		}
		return &of.ProviderInitError{ErrorCode: of.ProviderNotReadyCode, Message: "the flags cannot be read yet; all are off until they can"}
	}
	return nil
}

// Shutdown ends the events. The watcher is the host's, and goes on.
func (p *Provider) Shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// ShutdownWithContext is Shutdown, which waits for nobody.
func (p *Provider) ShutdownWithContext(context.Context) error {
	p.Shutdown()
	return nil
}

func (p *Provider) end() {
	if p.stop != nil {
		p.stop()
		<-p.stopped
		p.stop = nil
	}
}

// known is what has been told.
type known struct {
	ready bool
	flags map[string]*flags.Flag
}

func byName(w *flags.Watcher) map[string]*flags.Flag {
	all := map[string]*flags.Flag{}
	for _, f := range w.Flags() {
		all[f.Name] = f
	}
	return all
}

// watch tells what each pass brought until ctx ends. While nobody takes the
// events, it waits, and tells the latest afterwards.
func (p *Provider) watch(ctx context.Context, stopped chan<- struct{}, next <-chan struct{}, told known) {
	defer close(stopped)
	for {
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
		next = p.watcher.Next()
		is := known{ready: p.watcher.Health().Err == nil, flags: byName(p.watcher)}
		for _, event := range changes(told, is) {
			event.ProviderName = p.Metadata().Name
			select {
			case p.events <- event:
			case <-ctx.Done():
				return
			}
		}
		told = is
	}
}

func changes(was, is known) (events []of.Event) {
	switch {
	case is.ready && !was.ready:
		events = append(events, of.Event{EventType: of.ProviderReady, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags can be read"}})
	case !is.ready && was.ready:
		events = append(events, of.Event{EventType: of.ProviderStale, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags cannot be read; the last ones go on"}})
	}
	var names []string
	for name, f := range is.flags {
		if was.flags[name] != f {
			names = append(names, name)
		}
	}
	for name := range was.flags {
		if is.flags[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if names != nil {
		events = append(events, of.Event{EventType: of.ProviderConfigChange, ProviderEventDetails: of.ProviderEventDetails{Message: "flags have changed", FlagChanges: names}})
	}
	return events
}
