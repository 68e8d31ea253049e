// Package sessionsql has the values of the columns state, reason, purpose and lane
// of automation_sessions, for all packages whose SQL uses them.
package sessionsql

// The states of a session's row. docs/session-states.md has their transitions.
const (
	StateOpening = "opening" // intended, and perhaps being opened
	StateUnknown = "unknown" // nobody can say whether it was opened
	StateOpen    = "open"    // can serve requests
	StateEnding  = "ending"  // serves nobody, is to be closed
	StateClosed  = "closed"  // closed on the chain; final
	StateFailed  = "failed"  // nothing was opened; final
	StateLost    = "lost"    // given up, but still looked for from time to time
)

// Sets of states, as SQL. Each names exactly the states of a partial index, so
// that the planner can use it.
const (
	Unfinished = `state IN ('` + StateOpening + `', '` + StateUnknown + `', '` + StateOpen + `', '` + StateEnding + `', '` + StateLost + `')`
	Counted    = `state IN ('` + StateOpening + `', '` + StateUnknown + `', '` + StateOpen + `', '` + StateEnding + `')`
	Finished   = `state IN ('` + StateClosed + `', '` + StateFailed + `')`
)

// The column reason: why a session ended, why it was not opened, or why an unknown
// open stays unknown.
const (
	ReasonEnded       = "ended"       // its end on the chain has passed
	ReasonUnused      = "unused"      // its end has passed, and no request ever used it
	ReasonUser        = "user"        // its user asked for it
	ReasonOperator    = "operator"    // an operator asked for it
	ReasonErased      = "forgotten"   // its user was erased
	ReasonExpired     = "expired"     // the chain or the provider says that it has ended
	ReasonNotAsked    = "not_asked"   // the node was never asked to open it
	ReasonNotNeeded   = "not_needed"  // no request waited for it any more
	ReasonRefused     = "refused"     // the node opened nothing
	ReasonMismatch    = "mismatch"    // the node opened another session than requested
	ReasonUnreachable = "unreachable" // the node cannot be asked about an unknown open
)

// The column purpose: why a session was opened.
const (
	PurposeRequest     = "request"     // a request needed one
	PurposeRenewal     = "renewal"     // one in use is about to end
	PurposePrewarm     = "prewarm"     // a model keeps one ready
	PurposeReplacement = "replacement" // one in use broke
)

// The column lane: how a row's call to the node shares the wallet with other calls.
const (
	WalletIdle      = ""       // no call is under way
	WalletShared    = "shared" // other calls may be under way
	WalletExclusive = "alone"  // no other call may begin
)
