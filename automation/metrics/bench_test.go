package metrics_test

import (
	"io"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// What metrics add to a request: one or two observations of the request itself, and
// one for each call to the database.
func BenchmarkObserve(b *testing.B) {
	observer := metrics.New(metrics.Options{}).Observer()
	for name, observe := range map[string]func(){
		"chat": func() { observer.Chat(outcome.Outcome{Cause: outcome.None, Overhead: 3 * time.Millisecond}) },
		"sql":  func() { observer.SQL("sessions.claim", 0, time.Millisecond, nil) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				observe()
			}
		})
	}
}

// A whole scrape of a module with a database.
func BenchmarkScrape(b *testing.B) {
	r := metrics.New(metrics.Options{})
	g := automationtest.New(b, automationtest.Options{Observer: r.Observer()})
	r.Attach(g.Module)
	registry := prometheus.NewRegistry()
	registry.MustRegister(r)
	h := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		_, _ = io.Copy(io.Discard, w.Body)
	}
}
