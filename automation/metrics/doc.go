// Package metrics makes Prometheus metrics of what package automation does.
// Nothing else of the module knows Prometheus.
//
//	recorder := metrics.New(metrics.Options{})
//	m, err := automation.New(cfg, db, identify, automation.Options{Observer: recorder})
//	...
//	recorder.Attach(m)
//	registry.MustRegister(recorder)
//
// A [Recorder] counts what the module tells it, and asks the module for the rest
// when it is scraped: the flags and the mapping from memory, the sessions and
// the settings from the database. What the database said serves for a while,
// so that scrapes, however many, cost it next to nothing; and a scrape waits
// for it no longer than a second.
//
// No label tells users, models or sessions apart, so the number of series does
// not grow with theirs. docs/metrics.md has every metric with its normal range.
package metrics
