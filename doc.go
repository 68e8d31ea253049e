// Package gatewayautomation has no code: its documentation is the overview of a
// module for gateways to the Morpheus network, where every request to a model
// needs a paid session. With the module's automation feature, a chat request
// that names a model and brings no session gets one, which the module opens,
// pays, reuses, renews and closes. Users switch the feature on and set how long
// their sessions last. Operators roll it out to a few users, to 10 %, to
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
// and locks its stake for a day when it is closed early. So the replicas of a
// gateway must coordinate which of them opens, uses and closes a session, also
// when replicas, connections and the node fail in the middle of it. They do so
// through one PostgreSQL, which the gateway has anyway.
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
// What these build on, each usable by itself:
//
//   - flags: who has a feature; flags/rollout gives it to more users in stages
//     and takes it back if requests fail; flags/listen shows changes sooner;
//     flags/openfeature is a provider for OpenFeature
//   - settings: what each user chose
//   - mapping: which model a name means
//   - automation/session: opens, leases, renews and closes paid sessions
//   - automation/proxyrouter: the client of a Morpheus node
//   - automation/outcome: how requests end
//
// PostgreSQL is the product's database; SQLite serves trials and a single
// machine.
package gatewayautomation
