package session

// The states of a session's row. docs/session-states.md has their transitions.
const (
	stateOpening = "opening" // intended, and perhaps being opened
	stateUnknown = "unknown" // nobody can say whether it was opened
	stateOpen    = "open"    // can serve requests
	stateEnding  = "ending"  // serves nobody, is to be closed
	stateClosed  = "closed"  // closed on the chain; final
	stateFailed  = "failed"  // nothing was opened; final
	stateLost    = "lost"    // given up, but still looked for now and then
)

// Sets of states, as SQL. Each names exactly the states of a partial index, so
// that the planner can use it.
const (
	unfinished = `state IN ('` + stateOpening + `', '` + stateUnknown + `', '` + stateOpen + `', '` + stateEnding + `', '` + stateLost + `')`
	counted    = `state IN ('` + stateOpening + `', '` + stateUnknown + `', '` + stateOpen + `', '` + stateEnding + `')`
	finished   = `state IN ('` + stateClosed + `', '` + stateFailed + `')`
)

// Why a row left the state open, or failed: the column reason.
const (
	reasonEnded       = "ended"       // its end on the chain has passed
	reasonUnused      = "unused"      // likewise, and no request ever used it
	reasonUser        = "user"        // its user asked for it
	reasonOperator    = "operator"    // an operator asked for it
	reasonErased      = "forgotten"   // its user was erased
	reasonExpired     = "expired"     // the chain or its provider says so
	reasonBroken      = "broken"      // its provider failed
	reasonNotAsked    = "not_asked"   // the node was never asked to open it
	reasonNotNeeded   = "not_needed"  // nobody waited for it any more
	reasonRefused     = "refused"     // the node opened nothing
	reasonMismatch    = "mismatch"    // it is not what was asked for
	reasonUnreachable = "unreachable" // of an unknown open: the node cannot be asked about it
)

// Why a session was opened: the column purpose.
const (
	purposeRequest     = "request"     // a request needed one
	purposeRenewal     = "renewal"     // one in use is about to end
	purposePrewarm     = "prewarm"     // a model keeps one ready
	purposeReplacement = "replacement" // one in use broke
)

// How a row's call to the node shares the wallet: the column lane.
const (
	walletIdle      = ""       // no call under way
	walletShared    = "shared" // next to others
	walletExclusive = "alone"  // no other at the same time
)
