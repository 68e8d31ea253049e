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

// Module is what a Recorder reads when it is scraped. *automation.Module
// implements it.
type Module interface {
	Flags() *flags.View
	Snapshot() automation.Snapshot
	Stats(ctx context.Context) (session.Stats, error)
	OptInCounts(ctx context.Context) (on, off int64, err error)
	RolloutStatus(ctx context.Context) ([]rollout.Status, error)
}

// Options of a Recorder. The zero value works.
type Options struct {
	// ConstLabels are added to every series. Two modules of one process need
	// different values of the same label to be registered side by side.
	ConstLabels prometheus.Labels
	Now         func() time.Time // nil is the wall clock
}

// Recorder is a prometheus.Collector of a module's events and state. The host
// registers it.
type Recorder struct {
	now    func() time.Time
	events *events
	scrape *scrape
	module atomic.Pointer[source]
}

// source is the attached module with cached answers of its database.
type source struct {
	Module
	stats    cached[session.Stats]
	users    cached[userCounts]
	rollouts cached[[]rollout.Status]
}

// userCounts are the users with stored settings.
type userCounts struct{ on, off int64 }

// Bounds on the queries of scrapes.
const (
	statsMaxAge    = 10 * time.Second // how long statistics are cached
	usersMaxAge    = time.Minute      // longer, because counting the users reads the whole table of settings
	scrapeDeadline = time.Second      // how long a scrape waits for the database
)

var _ prometheus.Collector = (*Recorder)(nil)

// New returns a Recorder. Until a module is attached it exports only what it has
// observed.
func New(o Options) *Recorder {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Recorder{now: o.Now, events: newEvents(o.ConstLabels), scrape: newScrape(o.ConstLabels)}
}

// Attach makes the Recorder read m whenever it is scraped.
func (r *Recorder) Attach(m Module) {
	a := &source{Module: m}
	a.stats = cached[session.Stats]{now: r.now, maxAge: statsMaxAge, fetch: m.Stats}
	a.rollouts = cached[[]rollout.Status]{now: r.now, maxAge: statsMaxAge, fetch: m.RolloutStatus}
	a.users = cached[userCounts]{now: r.now, maxAge: usersMaxAge, fetch: func(ctx context.Context) (userCounts, error) {
		on, off, err := m.OptInCounts(ctx)
		return userCounts{on, off}, err
	}}
	r.module.Store(a)
}

// Describe implements prometheus.Collector.
func (r *Recorder) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.events.collectors() {
		c.Describe(ch)
	}
	for _, d := range r.scrape.descs() {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It waits for the database at most one
// second, and omits the metrics that it could not read by then.
func (r *Recorder) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.events.collectors() {
		c.Collect(ch)
	}
	if a := r.module.Load(); a != nil {
		r.scrape.collect(a, ch)
	}
}
