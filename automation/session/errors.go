package session

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotRunning says that Run has not been called yet, or is ending.
	ErrNotRunning = errors.New("session: the manager is not running")
	// ErrUnmanaged says that the manager has no session of that id.
	ErrUnmanaged = errors.New("session: no managed session has this id")
	// ErrNotYours says that the session belongs to another user.
	ErrNotYours = errors.New("session: the session belongs to another user")
	// ErrEnded says that the manager has the session, but it has ended or is ending.
	ErrEnded = errors.New("session: the session has ended")
	// ErrLeaseLost is the cause of a claim's context when this replica could
	// not extend the lease in time: another request may hold the session by now.
	ErrLeaseLost = errors.New("session: the lease was lost")
)

// The reasons why [Manager.Replace] opens no other session.
var (
	// errPaid says that the node was already asked to open a session for the
	// request. A request may cause at most one open.
	errPaid = errors.New("session: the request has already caused an open")
	// errNoOtherProvider says that the node cannot be made to choose another
	// provider.
	errNoOtherProvider = errors.New("session: the node cannot be made to choose another provider")
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
	Limit      string        // one of the Limit constants
	Max        int           // the value of that limit
	RetryAfter time.Duration // until the limit allows an open again; whole seconds, at least 1 s
}

func (e *BudgetError) Error() string {
	return fmt.Sprintf("session: limit %s of %d reached, retry in %v", e.Limit, e.Max, e.RetryAfter)
}

// An UnavailableError says that a request has got no session within AcquireTimeout,
// or that waiting any longer would be in vain.
type UnavailableError struct {
	RetryAfter time.Duration // 1 s to 1 min
	Err        error         // the reason, such as ErrBusy or ErrOpening
}

func (e *UnavailableError) Error() string { return "session: none available: " + e.Err.Error() }
func (e *UnavailableError) Unwrap() error { return e.Err }

// ErrBusy is the reason in an UnavailableError when all sessions that could serve
// the request stayed in use.
var ErrBusy = errors.New("all sessions stayed in use")

// ErrOpening is the reason in an UnavailableError when the open that the request
// waited for has not ended yet.
var ErrOpening = errors.New("the session is still being opened")
