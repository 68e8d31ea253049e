// Package sessionsql has what the columns state, reason, purpose and lane of
// automation_sessions hold, for every package with SQL about them.
package sessionsql

// The states of a session's row. docs/session-states.md has their transitions.
const (
	StateOpening = "opening" // intended, and perhaps being opened
	StateUnknown = "unknown" // nobody can say whether it was opened
	StateOpen    = "open"    // can serve requests
	StateEnding  = "ending"  // serves nobody, is to be closed
	StateClosed  = "closed"  // closed on the chain; final
	StateFailed  = "failed"  // nothing was opened; final
	StateLost    = "lost"    // given up, but still looked for now and then
)

// Sets of states, as SQL. Each names exactly the states of a partial index, so
// that the planner can use it.
const (
	Unfinished = `state IN ('` + StateOpening + `', '` + StateUnknown + `', '` + StateOpen + `', '` + StateEnding + `', '` + StateLost + `')`
	Counted    = `state IN ('` + StateOpening + `', '` + StateUnknown + `', '` + StateOpen + `', '` + StateEnding + `')`
	Finished   = `state IN ('` + StateClosed + `', '` + StateFailed + `')`
)

// Why a row left the state open, or failed: the column reason.
const (
	ReasonEnded       = "ended"       // its end on the chain has passed
	ReasonUnused      = "unused"      // likewise, and no request ever used it
	ReasonUser        = "user"        // its user asked for it
	ReasonOperator    = "operator"    // an operator asked for it
	ReasonErased      = "forgotten"   // its user was erased
	ReasonExpired     = "expired"     // the chain or its provider says so
	ReasonNotAsked    = "not_asked"   // the node was never asked to open it
	ReasonNotNeeded   = "not_needed"  // nobody waited for it any more
	ReasonRefused     = "refused"     // the node opened nothing
	ReasonMismatch    = "mismatch"    // it is not what was asked for
	ReasonUnreachable = "unreachable" // of an unknown open: the node cannot be asked about it
)

// Why a session was opened: the column purpose.
const (
	PurposeRequest     = "request"     // a request needed one
	PurposeRenewal     = "renewal"     // one in use is about to end
	PurposePrewarm     = "prewarm"     // a model keeps one ready
	PurposeReplacement = "replacement" // one in use broke
)

// How a row's call to the node shares the wallet: the column lane.
const (
	WalletIdle      = ""       // no call under way
	WalletShared    = "shared" // next to others
	WalletExclusive = "alone"  // no other at the same time
)
