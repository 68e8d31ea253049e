// Package metrics exports Prometheus metrics of a module. No other package of the
// module links Prometheus.
//
//	recorder := metrics.New(metrics.Options{})
//	m, err := automation.New(cfg, db, identify, automation.Options{Observer: recorder.Observer()})
//	...
//	recorder.Attach(m)
//	registry.MustRegister(recorder)
//
// A [Recorder] counts the events of the module and reads its state at each
// scrape: flags and mapping from memory, sessions and settings from the
// database. Answers of the database are cached, so more scrapes hardly add load
// to it, and a scrape waits for the database at most one second.
//
// No label has the id of a user, a model or a session, so the number of series is
// bounded. docs/metrics.md lists every metric with its normal range.
package metrics
