// Package session hands out paid Morpheus sessions, one request at a time, and
// looks after them: it opens what is missing, renews what is in use, and closes
// what has ended. Any number of replicas share a database and a wallet.
//
//	m, err := session.New(db, node, session.Options{MaxPerUser: 4, OpensPerHour: 10})
//	go m.Run(ctx)
//	…
//	claim, err := m.Acquire(ctx, session.Request{UserID: "7", ModelID: model, Duration: time.Hour})
//	if err != nil {
//		return err // *BudgetError, *UnavailableError, …
//	}
//	defer claim.Release()
//	forward(claim.Context(), claim.SessionID())
//
// # Claims
//
// A claim is a lease on the session's row: a token, this replica as its holder,
// and an end on the database's clock, which one heartbeat statement a replica
// moves for all its claims. A replica that dies frees its sessions within
// Options.Lease; one that cannot reach the database ends the work under a lease
// before the lease itself ends. A process that is stopped as a whole, and goes
// on after its lease has ended, is told only then: the node knows no fencing.
//
// # Opens
//
// An open is a row before it is a call to the node. Whatever happens in
// between, a replica finds the row, looks for its session among the wallet's
// newest, and adopts it; nothing else is opened for that user and model
// meanwhile. The first of those who wait in a replica asks the database for
// all of them, so a crowd costs little more than one. Replicas do not queue
// among each other: who waits there looks again each quarter of a second.
//
// # Limits
//
// They are counted under a lock in the same transaction that writes the
// intent, so they are exact across replicas. What does not count towards
// Options.MaxPerUser: sessions that were retired or are too near their end to
// be handed out, and predecessors of successors opened ahead of the end.
package session
