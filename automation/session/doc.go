// Package session hands out paid Morpheus sessions, each to one request at a
// time, and manages their life: it opens sessions that are missing, renews those
// in use and closes those that have ended. Any number of replicas share one
// database and one wallet. Of this module, the package needs only the tables and
// a [Provider]:
//
//	db := sqlx.MustOpen("postgres", dsn)
//	_, err := schema.Migrate(ctx, db)
//	…
//	node, err := proxyrouter.New(proxyrouter.Options{URL: "http://localhost:8082"})
//	…
//	m, err := session.New(db, node, session.Options{MaxPerUser: 4, OpensPerHour: 10})
//	…
//	go m.Run(ctx)
//
//	claim, err := m.Acquire(ctx, session.Request{UserID: "7", ModelID: model, Duration: time.Hour})
//	if err != nil {
//		return err // *BudgetError, *UnavailableError, …
//	}
//	defer claim.Release()
//	forward(claim.Context(), claim.SessionID())
//
// The package's example shows the whole program.
//
// # Claims
//
// A claim is a lease on the session's row: a token, this replica as its holder,
// and an end on the database's clock. One heartbeat statement in each replica
// extends all its leases. When a replica dies, its sessions are free again after
// Options.Lease and Options.CoolDown. A replica that cannot reach the database
// ends the work under a lease before the lease itself ends. A process that is
// suspended for longer than Lease and CoolDown together, and then continues,
// cannot be kept from the session, because the node has no fencing.
//
// # Opens
//
// Before the node is asked to open a session, the intent is written as a row. The
// open asks for a length that no other open of the wallet asks for: some seconds
// more than its user chose. If the outcome of the call remains unknown, a replica
// finds the row, looks for a session of that length among the wallet's newest,
// and adopts it. Until then nothing else is opened for that user and model. A
// session that a client has named, or that Options.Foreign reports, is never
// adopted.
//
// A request causes at most one open, and only while it waits. A second session
// of a model is opened only if waiting would take longer than opening, and it
// never takes a user's last place. If another transaction has locked an idle
// session, the request waits for it. A slow database is no reason to open a
// session.
//
// # Waiting
//
// Of the requests that wait in a queue of a replica, only the first one asks the
// database, so a burst of requests costs little more than one. Requests of all
// replicas are served in the order in which they came, give or take half a second.
//
// # Limits
//
// Limits are counted under a lock, in the transaction that writes the intent, so
// they are exact across replicas. Options.MaxPerUser does not count sessions that
// were retired or are too near their end to be handed out, nor successors of
// sessions that have not ended. Idle sessions of other models do not prevent a
// new one until the user has twice as many open sessions as MaxPerUser.
//
// The states of a session and what moves it from one to the next are described in
// docs/session-states.md.
package session
