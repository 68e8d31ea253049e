// Package outcome names how requests end. Each request through the module
// ends with one [Outcome], and its [Cause] decides everything that follows: the
// status of the answer, the metric's label, the level of the log line, and
// whether it is evidence against the feature.
//
// The package imports the standard library alone, so that an observer can use
// it without linking anything else.
package outcome

import "time"

// Cause is why a request ended as it did. The zero Cause is none of the
// constants and is treated as [Internal]: a request whose end nobody
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

// Outcome is how one request ended.
type Outcome struct {
	Cause Cause
	// Code is the error's code, or why automation did not act, one of Skip…;
	// empty for a request that automation served.
	Code Code
	// Skipped says that automation did not act on the request, which was
	// passed on unchanged. It is never a failure of automation's.
	Skipped bool
	// Route is the pattern of an API's route, or a path in OpenAI's shape such
	// as /v1/chat/completions; empty where there is none.
	Route string
	// Status of the answer; 0 where none was sent.
	Status int
	// Overhead is what automation added before the request was passed on or
	// refused, reading of the body included.
	Overhead time.Duration
	// Latency is the time from the request to the first byte of its answer, or
	// to its end where it failed.
	Latency time.Duration
	// DatabaseTime is how much of it was spent in the database, where that is
	// known; otherwise 0.
	DatabaseTime time.Duration
	// Arm is the side of a staged rollout that the request is on: exposed (the
	// user has the feature), control (the user is outside the percentage, and
	// nothing else keeps the feature from them), or empty for neither.
	Arm string
	// UserID is for the rollout's evidence, and nobody else's business: it
	// belongs into no label and no log line.
	UserID string
	// RequestID is the X-Request-Id, bounded, for the log.
	RequestID string
	// Err is the cause's error, for the log; nil where there is none.
	Err error
}

// Result is what became of the request.
func (o Outcome) Result() Result {
	switch {
	case o.Skipped:
		return Untouched
	case o.Cause == None:
		return Served
	case o.Cause == ClientLeft:
		return Canceled
	case o.Cause == Client, o.Cause == Off, o.Cause == Limit, o.Cause == Model:
		return Refused
	}
	return Failed
}
