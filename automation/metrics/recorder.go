package metrics

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// Module is what a Recorder asks when it is scraped; *automation.Module is one.
type Module interface {
	Flags() *flags.Watcher
	Snapshot() automation.Snapshot
	Census(ctx context.Context) (session.Census, error)
	Adopters(ctx context.Context) (on, off int64, err error)
	RolloutStatus(ctx context.Context) ([]rollout.Status, error)
}

// Options of a Recorder. The zero value works.
type Options struct {
	Now func() time.Time // nil is the wall clock
}

// Recorder is an automation.Observer and a prometheus.Collector. It registers
// itself nowhere.
type Recorder struct {
	now    func() time.Time
	events *events
	scrape *scrape
	module atomic.Pointer[attached]
}

// attached is a module and what its database said last.
type attached struct {
	Module
	census   kept[session.Census]
	adopters kept[adopters]
	rollouts kept[[]rollout.Status]
}

type adopters struct{ on, off int64 }

// How long an answer of the database serves. Counting the adopters reads a
// whole table.
const (
	censusServes   = 10 * time.Second
	adoptersServe  = time.Minute
	scrapeDeadline = time.Second
)

var (
	_ automation.Observer  = (*Recorder)(nil)
	_ prometheus.Collector = (*Recorder)(nil)
)

// New makes a Recorder. Until a module is attached it has only what that tells it.
func New(o Options) *Recorder {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Recorder{now: o.Now, events: newEvents(), scrape: newScrape()}
}

// Attach lets the Recorder ask m whenever it is scraped.
func (r *Recorder) Attach(m Module) {
	a := &attached{Module: m}
	a.census = kept[session.Census]{now: r.now, serves: censusServes, ask: m.Census}
	a.rollouts = kept[[]rollout.Status]{now: r.now, serves: censusServes, ask: m.RolloutStatus}
	a.adopters = kept[adopters]{now: r.now, serves: adoptersServe, ask: func(ctx context.Context) (adopters, error) {
		on, off, err := m.Adopters(ctx)
		return adopters{on, off}, err
	}}
	r.module.Store(a)
}

// Describe is that of a prometheus.Collector.
func (r *Recorder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.events.all() {
		c.Describe(ch)
	}
	for _, d := range r.scrape.all() {
		ch <- d
	}
}

// Collect is that of a prometheus.Collector. It takes a second at most, and
// leaves out what the database did not say by then.
func (r *Recorder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.events.all() {
		c.Collect(ch)
	}
	if a := r.module.Load(); a != nil {
		r.scrape.collect(a, ch)
	}
}
