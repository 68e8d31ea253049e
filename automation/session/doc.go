// Package session hands out paid Morpheus sessions, one request at a time, and
// looks after them: it opens what is missing, renews what is in use, and closes
// what has ended. Any number of replicas share a database and a wallet. The
// package needs nothing of this module but its tables and a [Provider]:
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
// The package's example is this program, whole.
//
// # Claims
//
// A claim is a lease on the session's row: a token, this replica as its holder,
// and an end on the database's clock, which one heartbeat statement a replica
// moves for all its claims. A replica that dies frees its sessions within
// Options.Lease and Options.CoolDown; one that cannot reach the database ends
// the work under a lease before the lease itself ends. A process that is
// suspended as a whole for longer than both, and then continues, cannot be kept
// from the session: the node knows no fencing.
//
// # Opens
//
// An open is a row before it is a call to the node, and asks for a length that
// no other open of the wallet asks for: some seconds more than its user chose.
// Whatever happens in between, a replica finds the row, looks for a session of
// that length among the wallet's newest, and adopts it; nothing else is opened
// for that user and model meanwhile. A session that a client has named, or that
// Options.Foreign knows, is never adopted.
//
// A request causes one open at most, and only while it waits. A second session
// of a model is opened where waiting takes longer than opening, and never takes
// a user's last place. An idle session that another transaction has locked is
// waited for, and the wait for a slow database is no reason to open another.
//
// # Waiting
//
// The first of those who wait in a replica asks the database for all of them,
// so a burst of requests costs little more than one. Requests of all replicas
// are served in the order in which they came, to half a second.
//
// # Limits
//
// They are counted under a lock in the same transaction that writes the
// intent, so they are exact across replicas. What does not count towards
// Options.MaxPerUser: sessions that were retired or are too near their end to
// be handed out, and successors of sessions that are still there. Idle
// sessions of other models give way to a new one, up to as many again.
//
// The states of a session and what moves it from one to the next are described in
// docs/session-states.md.
package session
