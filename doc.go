// Package gatewayautomation is the overview of a module that a Go gateway for
// the Morpheus network imports to run its automation feature: a chat request
// that names a model and brings no session gets one, opened, paid, reused,
// renewed and closed by the module. Users switch the feature on and say how
// long their sessions last. Operators roll it out to a few users, to 10 %, to
// everybody, and take it back in seconds.
//
// The gateway brings its database pool, its way to tell users, and a handler;
// package automation brings the rest:
//
//	cfg, err := automation.LoadConfig() // docs/environment.md has the variables
//	if err != nil {
//		return nil, err
//	}
//	if _, err := schema.Migrate(ctx, db); err != nil {
//		return nil, err
//	}
//	m, err := automation.New(cfg, db, identify, automation.Options{Logger: logger})
//	if err != nil {
//		return nil, err
//	}
//	stopped := make(chan error, 1)
//	go func() { stopped <- m.Run(ctx) }()
//
//	mux.Handle(automation.BasePath+"/", m.API())
//	mux.Handle("POST /api/v1/chat/completions", m.Sessions(chat)) // or m.Forward()
//	mux.Handle("GET /healthz/ready", m.Ready())
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
//   - automation: the configuration, the middleware, the HTTP API, health
//   - automation/schema: the tables, brought in and taken out again
//   - flags: who has a feature; works for the gateway's own features as well
//   - settings: what each user chose
//   - mapping: which model a name means
//   - automation/metrics: what Prometheus scrapes
//   - flags/rollout: a flag's way through stages, and back by itself
//   - flags/listen, flags/openfeature: changes heard of at once; a provider
//
// What these stand on, usable by itself:
//
//   - automation/session: who may use which paid session, and until when
//   - automation/proxyrouter: the client of a Morpheus node
//   - automation/proxyrouter/proxyroutertest: a simulated node, for tests
//
// The command automationctl is the operators'. The command examples/server is a
// whole small gateway that needs nothing but Go. PostgreSQL is the product's database; SQLite serves trials and a single
// machine.
package gatewayautomation
