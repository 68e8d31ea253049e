package session

import "github.com/MorpheusAIs/gateway-automation/internal/sessionsql"

// Short names for the values of columns, and for the sets of states, that package
// sessionsql describes.
const (
	stateOpening = sessionsql.StateOpening
	stateUnknown = sessionsql.StateUnknown
	stateOpen    = sessionsql.StateOpen
	stateEnding  = sessionsql.StateEnding
	stateClosed  = sessionsql.StateClosed
	stateFailed  = sessionsql.StateFailed
	stateLost    = sessionsql.StateLost

	reasonEnded       = sessionsql.ReasonEnded
	reasonUnused      = sessionsql.ReasonUnused
	reasonUser        = sessionsql.ReasonUser
	reasonOperator    = sessionsql.ReasonOperator
	reasonErased      = sessionsql.ReasonErased
	reasonExpired     = sessionsql.ReasonExpired
	reasonNotAsked    = sessionsql.ReasonNotAsked
	reasonNotNeeded   = sessionsql.ReasonNotNeeded
	reasonRefused     = sessionsql.ReasonRefused
	reasonMismatch    = sessionsql.ReasonMismatch
	reasonUnreachable = sessionsql.ReasonUnreachable

	purposeRequest     = sessionsql.PurposeRequest
	purposeRenewal     = sessionsql.PurposeRenewal
	purposePrewarm     = sessionsql.PurposePrewarm
	purposeReplacement = sessionsql.PurposeReplacement

	walletIdle      = sessionsql.WalletIdle
	walletShared    = sessionsql.WalletShared
	walletExclusive = sessionsql.WalletExclusive

	unfinished = sessionsql.Unfinished
	counted    = sessionsql.Counted
	finished   = sessionsql.Finished
)
