package openfeature

import (
	"context"
	"slices"
	"time"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

// EventChannel is where the provider's events come from between Init and
// Shutdown. It is never closed.
func (p *provider) EventChannel() <-chan of.Event { return p.events }

// Init is InitWithContext without an end.
func (p *provider) Init(about of.EvaluationContext) error {
	return p.InitWithContext(context.Background(), about)
}

// InitWithContext waits until the view has flags, until a pass of its watcher
// fails, or for at most 5 s, and begins with the events. It fails if there are
// no flags to decide from; the provider becomes ready, and says so, once there
// are.
func (p *provider) InitWithContext(ctx context.Context, _ of.EvaluationContext) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	waitForPass(ctx, p.view)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop, p.stopped = stop, make(chan struct{})
	// OpenFeature makes the first event itself, of what we return. Ours begin
	// with the pass after that, so that they do not overtake it.
	next, ready := p.view.Next(), p.view.Health().Loaded
	go p.run(running, p.stopped, next, state{ready: ready, flags: byName(p.view)})
	if !ready {
		if err := ctx.Err(); err != nil {
			return err
		}
		return &of.ProviderInitError{ErrorCode: of.ProviderNotReadyCode, Message: "the flags cannot be read yet; all are off until they can"}
	}
	return nil
}

// maxInitWait is how long Init waits for the first pass.
const maxInitWait = 5 * time.Second

// waitForPass waits until the view has flags or a problem.
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

// Shutdown ends the events. The watcher is the host's, and continues.
func (p *provider) Shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

// ShutdownWithContext is Shutdown, which waits for nobody.
func (p *provider) ShutdownWithContext(context.Context) error {
	p.Shutdown()
	return nil
}

func (p *provider) end() {
	if p.stop != nil {
		p.stop()
		<-p.stopped
		p.stop = nil
	}
}

// state is what events report changes of.
type state struct {
	ready bool
	flags map[string]*flags.Flag
}

func byName(v *flags.View) map[string]*flags.Flag {
	all := map[string]*flags.Flag{}
	for _, f := range v.Flags() {
		all[f.Name] = f
	}
	return all
}

// run sends what each pass changed until ctx ends. While nobody receives the
// events, it waits, and sends the latest afterwards.
func (p *provider) run(ctx context.Context, stopped chan<- struct{}, next <-chan struct{}, sent state) {
	defer close(stopped)
	for {
		select {
		case <-next:
		case <-ctx.Done():
			return
		}
		next = p.view.Next()
		is := state{ready: p.view.Health().Err == nil, flags: byName(p.view)}
		for _, event := range changes(sent, is) {
			event.ProviderName = p.Metadata().Name
			select {
			case p.events <- event:
			case <-ctx.Done():
				return
			}
		}
		sent = is
	}
}

func changes(was, is state) (events []of.Event) {
	switch {
	case is.ready && !was.ready:
		events = append(events, of.Event{EventType: of.ProviderReady, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags can be read"}})
	case !is.ready && was.ready:
		events = append(events, of.Event{EventType: of.ProviderStale, ProviderEventDetails: of.ProviderEventDetails{Message: "the flags cannot be read; the last ones stay in use"}})
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
