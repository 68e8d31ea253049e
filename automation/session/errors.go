package session

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotRunning says that Run has not been called yet, or it is ending.
	ErrNotRunning = errors.New("session: the manager is not running")
	// ErrUnmanaged says that no session of ours has that id.
	ErrUnmanaged = errors.New("session: not one of ours")
	// ErrNotYours says that the session belongs to another user.
	ErrNotYours = errors.New("session: it belongs to another user")
	// ErrEnded says that the session is one of ours, but it has ended or is ending.
	ErrEnded = errors.New("session: it has ended")
	// ErrLeaseLost is the cause of a claim's context when this replica could
	// not extend its lease in time: the session may be somebody else's by now.
	ErrLeaseLost = errors.New("session: the lease on it was lost")
)

// Why a session is not replaced.
var (
	// errPaid says that the node was already asked to open a session for the
	// request, which may cause one at most.
	errPaid = errors.New("session: the request has caused an open already")
	// errNoOtherProvider says that the node cannot be made to choose another
	// provider.
	errNoOtherProvider = errors.New("session: the node chooses no other provider")
)

// The limits that a BudgetError names.
const (
	LimitHour              = "opens_per_hour"
	LimitDay               = "opens_per_day"
	LimitSessions          = "sessions_per_user"
	LimitTotal             = "sessions_in_all"
	LimitReplacements      = "replacements_per_hour"
	LimitReplacementsTotal = "replacements_per_hour_in_all"
)

// A BudgetError says that a user needs a session and may not open one now.
type BudgetError struct {
	Limit      string        // one of the constants above
	Max        int           // its value
	RetryAfter time.Duration // when it allows an open again, rounded up to seconds
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("session: limit %s of %d reached, retry in %v", e.Limit, e.Max, e.RetryAfter)
}

// An UnavailableError says that no session could be had by the deadline.
type UnavailableError struct {
	RetryAfter time.Duration
	Err        error // why
}

func (e *UnavailableError) Error() string { return "session: none available: " + e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// ErrBusy is why, in an UnavailableError, when all sessions that the user may
// hold stayed in use.
var ErrBusy = errors.New("all sessions stayed in use")

// ErrOpening is why, in an UnavailableError, when the open that the request
// waited for has not ended yet.
var ErrOpening = errors.New("the session is still being opened")
