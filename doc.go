// Package gatewayautomation is the overview of a module that a Go gateway for
// the Morpheus network imports to run its automation feature: a chat request
// that names a model and brings no session gets one, opened, paid, reused,
// renewed and closed by the module. Users switch the feature on and say how
// long their sessions last. Operators roll it out to a few users, to 10 %, to
// everybody, and take it back in seconds.
//
// The gateway brings its database pool, a function that identifies users, and a
// router; package automation brings the handlers:
//
//	m, err := automation.New(cfg, db, identify, automation.Options{})
//	...
//	mux.Handle("/api/v1/", m.Forward()) // or m.Sessions(handler)
//	mux.Handle(automation.BasePath+"/", m.API())
//	go m.Run(ctx)
//
// The README shows a whole gateway.
//
// # Why
//
// A session on the network is paid, slow to open, serves one request at a time
// and locks its stake for a day when it is closed early. A gateway of several
// replicas that opens sessions by itself must therefore agree with itself, also
// when replicas, connections and the node fail at the worst moment. All of that
// agreement is in one PostgreSQL, which the gateway has anyway.
//
// # Packages
//
// What a gateway uses:
//
//   - automation: configuration, handlers, health
//   - automation/schema: the tables
//   - automation/metrics, automation/console: Prometheus collectors; the operators' pages
//   - automation/automationtest: what a gateway's own unit tests need
//   - pgpool: opens a pool of connections that survive a frozen server
//
// What these stand on, each usable by itself:
//
//   - flags: who has a feature; flags/rollout moves it through stages, and back
//     by itself; flags/listen and flags/openfeature
//   - settings: what each user chose
//   - mapping: which model a name means
//   - automation/session: who may use which paid session, and until when
//   - automation/proxyrouter: the client of a Morpheus node
//   - automation/outcome: how requests end
//
// PostgreSQL is the product's database; SQLite serves trials and a single
// machine.
package gatewayautomation
