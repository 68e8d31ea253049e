// Package outcome names how requests end. Each request through the module
// ends with one [Outcome], and its [Cause] decides everything that follows: the
// status of the answer, the metric's label, the level of the log line, and
// whether the request counts against the feature in a rollout.
//
// The package imports only the standard library, so that an observer can use
// it without linking anything else.
package outcome

import "time"

// Cause is why a request ended as it did. The zero Cause is none of the
// constants and is treated as [Internal]: an end without a cause is a bug of
// the module.
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
	Node       Cause = "node"        // the Morpheus node cannot be reached or refuses the gateway's credentials
	Session    Cause = "session"     // the session has expired, or the node does not know it
	Provider   Cause = "provider"    // the provider, or the way to it, failed
	Model      Cause = "model"       // the model's backend itself answered with an error
	Internal   Cause = "internal"    // a bug of the module: a panic, a broken invariant
)

// Result classifies the ends of requests, as the label of a metric.
type Result string

// The results.
const (
	Served    Result = "served"    // the request was answered
	Untouched Result = "untouched" // automation did not act on the request
	Refused   Result = "refused"   // the request cannot be served, and repeating it does not help
	Failed    Result = "failed"    // the request was valid, and serving it failed
	Canceled  Result = "canceled"  // the client left
)

// Outcome is how one request ended.
type Outcome struct {
	Cause Cause
	// Code is the error's code, or one of Skip… if automation did not act on
	// the request. It is empty for a request that automation served.
	Code Code
	// Skipped reports that automation did not act on the request, which was
	// passed on unchanged. Its result is always [Untouched].
	Skipped bool
	// Route is the pattern of an API's route, or a path in OpenAI's shape such
	// as /v1/chat/completions; empty if there is none.
	Route string
	// Status is the HTTP status of the answer; 0 if none was sent.
	Status int
	// Overhead is the time that automation added before the request was passed
	// on or refused. It includes reading the body.
	Overhead time.Duration
	// Latency is the time from the request to the first byte of its answer, or
	// to its end if it failed.
	Latency time.Duration
	// DatabaseTime is the part of Latency that was spent in the database; 0 if
	// that is unknown.
	DatabaseTime time.Duration
	// Arm is the side of a staged rollout that the request is on: exposed (the
	// user has the feature), control (the user is outside the percentage, and
	// nothing else keeps the feature from them), or empty for neither.
	Arm string
	// UserID is for the rollout, which counts how many users an error affects.
	// Keep it out of labels and log lines.
	UserID string
	// RequestID is the X-Request-Id for the log, at most 128 bytes.
	RequestID string
	// Err is the error for the log; nil if there is none.
	Err error
}

// Result returns the result of the request, which follows from Skipped and Cause.
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
