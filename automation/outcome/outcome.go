// Package outcome names how requests end. Each request through the module
// ends with one [Outcome], and its [Cause] decides everything that follows: the
// status of the answer, the metric's label, the level of the log line, whether
// it is evidence against the feature, and what helps. [Cause.Policy] is the one
// table of it.
//
// The package imports the standard library alone, so that an observer can use
// it without linking anything else.
package outcome

import (
	"log/slog"
	"net/http"
	"time"
)

// Cause is why a request ended as it did. The zero Cause is none of the
// constants and has the policy of [Internal]: a request whose end nobody
// explained is a fault of ours.
type Cause string

// The causes.
const (
	None       Cause = "none"        // nothing went wrong
	Client     Cause = "client"      // the request is wrong: body, model, type, size, session id, key
	ClientLeft Cause = "client_left" // the client went away before its answer was complete
	Off        Cause = "off"         // automation is off: master switch, flag, or the user's settings
	Limit      Cause = "limit"       // a budget or a cap is used up
	Busy       Cause = "busy"        // all sessions the user may hold, or the process's memory, stayed in use
	Opening    Cause = "opening"     // the session was not open by the deadline
	Database   Cause = "database"    // the database cannot be used
	Host       Cause = "host"        // the gateway around the module: its identity service, its files, its deadline, a replica that starts or stops
	Node       Cause = "node"        // the Morpheus node cannot be reached or refuses our credentials
	Session    Cause = "session"     // the session has expired, or the node does not know it
	Provider   Cause = "provider"    // the provider, or the way to it, failed
	Model      Cause = "model"       // the model's backend itself answered with an error
	Internal   Cause = "internal"    // a fault of ours: a panic, a broken invariant
)

// Causes lists all of them.
func Causes() []Cause {
	return []Cause{None, Client, ClientLeft, Off, Limit, Busy, Opening, Database, Host, Node, Session, Provider, Model, Internal}
}

// Evidence is what a request says about the feature to a staged rollout.
type Evidence string

// The kinds of evidence. The zero Evidence is that of a request on neither arm,
// or one that automation did not act on.
const (
	EvidenceNone     Evidence = "none"     // nothing
	EvidenceSuccess  Evidence = "success"  // for the feature
	EvidenceFailure  Evidence = "failure"  // against it
	EvidenceShared   Evidence = "shared"   // nothing, but both arms suffer: the stage is to hold
	EvidenceCompared Evidence = "compared" // against it only beyond the control arm's rate
)

// Remedy is what the module tries before it answers with an error.
type Remedy string

// The remedies.
const (
	RemedyNone      Remedy = "none"
	RemedyWait      Remedy = "wait"       // until the request's deadline
	RemedyLastState Remedy = "last_state" // the last good state serves meanwhile
	RemedyBreaker   Remedy = "breaker"    // stop calling it for a while
	RemedyVerify    Remedy = "verify"     // ask the chain, initiate again, replace
	RemedyOther     Remedy = "other"      // another provider's session
	RemedyDrain     Remedy = "drain"      // read the answer to its end, then release
)

// Result is what became of a request, in the few words that metrics use.
type Result string

// The results.
const (
	Served    Result = "served"    // it got what it asked for
	Untouched Result = "untouched" // automation did not act on it
	Refused   Result = "refused"   // the request cannot be served, and repeating it does not help
	Failed    Result = "failed"    // it could have been served
	Canceled  Result = "canceled"  // its client left
)

// Policy is what follows from a cause.
type Policy struct {
	// Status answers where the Code has no status of its own; 0 is an answer
	// that is not ours to make.
	// A 429 and a 503 say when to come back.
	Status   int
	Result   Result
	Evidence Evidence
	Remedy   Remedy
	Level    slog.Level // of the request's log line
}

// Policy looks the cause up in the table.
func (c Cause) Policy() Policy {
	if p, ok := policies[c]; ok {
		return p
	}
	return policies[Internal]
}

var policies = map[Cause]Policy{
	None:       {Status: http.StatusOK, Result: Served, Evidence: EvidenceSuccess, Remedy: RemedyNone, Level: slog.LevelDebug},
	Client:     {Status: http.StatusBadRequest, Result: Refused, Evidence: EvidenceNone, Remedy: RemedyNone, Level: slog.LevelDebug},
	ClientLeft: {Result: Canceled, Evidence: EvidenceNone, Remedy: RemedyDrain, Level: slog.LevelDebug},
	Off:        {Status: http.StatusBadRequest, Result: Refused, Evidence: EvidenceNone, Remedy: RemedyNone, Level: slog.LevelDebug},
	Limit:      {Status: http.StatusTooManyRequests, Result: Refused, Evidence: EvidenceNone, Remedy: RemedyNone, Level: slog.LevelInfo},
	Busy:       {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceNone, Remedy: RemedyWait, Level: slog.LevelInfo},
	Opening:    {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceFailure, Remedy: RemedyWait, Level: slog.LevelWarn},
	Database:   {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceShared, Remedy: RemedyLastState, Level: slog.LevelWarn},
	Host:       {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceNone, Remedy: RemedyNone, Level: slog.LevelWarn},
	Node:       {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceShared, Remedy: RemedyBreaker, Level: slog.LevelWarn},
	Session:    {Status: http.StatusServiceUnavailable, Result: Failed, Evidence: EvidenceFailure, Remedy: RemedyVerify, Level: slog.LevelWarn},
	Provider:   {Status: http.StatusBadGateway, Result: Failed, Evidence: EvidenceCompared, Remedy: RemedyOther, Level: slog.LevelWarn},
	Model:      {Result: Refused, Evidence: EvidenceNone, Remedy: RemedyNone, Level: slog.LevelInfo},
	Internal:   {Status: http.StatusInternalServerError, Result: Failed, Evidence: EvidenceFailure, Remedy: RemedyNone, Level: slog.LevelError},
}

// Arm is the side of a staged rollout that a request is on.
type Arm string

// The arms.
const (
	ArmNone    Arm = ""        // neither: the rollout does not decide about the user
	ArmExposed Arm = "exposed" // the user has the feature
	ArmControl Arm = "control" // the user is outside the percentage, and nothing else keeps the feature from them
)

// Outcome is how one request ended.
type Outcome struct {
	Cause Cause
	// Code is the error's code, or why automation did not act, one of Skip…;
	// empty for a request that automation served.
	Code Code
	// Skipped says that automation did not act on the request: it went on as
	// it was. It is never a failure of automation's.
	Skipped bool
	// Route is the pattern of an API's route, or a path in OpenAI's shape such
	// as /v1/chat/completions; empty where there is none.
	Route string
	// Status of the answer; 0 where none was sent.
	Status int
	// Overhead is what automation added before the request went on or was
	// refused, reading of the body included.
	Overhead time.Duration
	// Latency is the time from the request to the first byte of its answer, or
	// to its end where it failed.
	Latency time.Duration
	// DatabaseTime is how much of it was spent in the database, where that is
	// known; otherwise 0.
	DatabaseTime time.Duration
	// Arm and UserID are for the rollout's evidence. The id is nobody else's
	// business: it belongs into no label and no log line.
	Arm    Arm
	UserID string
	// RequestID is the X-Request-Id, bounded, for the log.
	RequestID string
	// Err is the cause's error, for the log; nil where there is none.
	Err error
}

// Result is what became of the request.
func (o Outcome) Result() Result {
	if o.Skipped {
		return Untouched
	}
	return o.Cause.Policy().Result
}

// Evidence is what the request says about the feature. One that automation did
// not act on says nothing against it; of the control arm all requests count.
func (o Outcome) Evidence() Evidence {
	if o.UserID == "" || o.Arm == ArmNone || o.Arm == ArmExposed && o.Skipped {
		return ""
	}
	return o.Cause.Policy().Evidence
}

// OfStatus is the cause of an answer of which only the status is known, as of
// a host's own handler: a good one has none, a 4xx is the client's or, where it
// is a limit, the model's own, and a 5xx is charged to the provider, because
// behind a session it is the likeliest.
func OfStatus(status int) Cause {
	switch {
	case status >= http.StatusInternalServerError:
		return Provider
	case status == http.StatusTooManyRequests:
		return Model
	case status >= http.StatusBadRequest:
		return Client
	}
	return None
}
