// Package policy holds the table from the [outcome.Cause] of a request's end to
// the status of its answer, the level of its log line, and its evidence for or
// against the feature.
package policy

import (
	"log/slog"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// Evidence is how a staged rollout counts a request.
type Evidence string

// The kinds of evidence. The zero Evidence is that of a request which is not
// counted: it is on neither arm, or automation did not act on it.
const (
	EvidenceNone     Evidence = "none"     // neither for nor against the feature
	EvidenceSuccess  Evidence = "success"  // for the feature
	EvidenceFailure  Evidence = "failure"  // against the feature
	EvidenceShared   Evidence = "shared"   // neither, but the stage must wait: the cause affects both arms
	EvidenceCompared Evidence = "compared" // against the feature only if more frequent than on the control arm
)

// Policy is what follows from a cause.
type Policy struct {
	// Status is the answer's, unless the code has its own. It is 0 if the module
	// does not choose it: the client has left, or gets the model's own status. A
	// 429 and a 503 have a Retry-After.
	Status   int
	Evidence Evidence
	Level    slog.Level // of the request's log line
}

// Of returns the policy for a cause. An unknown cause has that of
// outcome.Internal.
func Of(c outcome.Cause) Policy {
	if p, ok := policies[c]; ok {
		return p
	}
	return policies[outcome.Internal]
}

var policies = map[outcome.Cause]Policy{
	outcome.None:       {Status: http.StatusOK, Evidence: EvidenceSuccess, Level: slog.LevelDebug},
	outcome.Client:     {Status: http.StatusBadRequest, Evidence: EvidenceNone, Level: slog.LevelDebug},
	outcome.ClientLeft: {Evidence: EvidenceNone, Level: slog.LevelDebug},
	outcome.Off:        {Status: http.StatusBadRequest, Evidence: EvidenceNone, Level: slog.LevelDebug},
	outcome.Limit:      {Status: http.StatusTooManyRequests, Evidence: EvidenceNone, Level: slog.LevelInfo},
	outcome.Busy:       {Status: http.StatusServiceUnavailable, Evidence: EvidenceNone, Level: slog.LevelInfo},
	outcome.Opening:    {Status: http.StatusServiceUnavailable, Evidence: EvidenceFailure, Level: slog.LevelWarn},
	outcome.Database:   {Status: http.StatusServiceUnavailable, Evidence: EvidenceShared, Level: slog.LevelWarn},
	outcome.Host:       {Status: http.StatusServiceUnavailable, Evidence: EvidenceNone, Level: slog.LevelWarn},
	outcome.Node:       {Status: http.StatusServiceUnavailable, Evidence: EvidenceShared, Level: slog.LevelWarn},
	outcome.Session:    {Status: http.StatusServiceUnavailable, Evidence: EvidenceFailure, Level: slog.LevelWarn},
	outcome.Provider:   {Status: http.StatusBadGateway, Evidence: EvidenceCompared, Level: slog.LevelWarn},
	outcome.Model:      {Evidence: EvidenceNone, Level: slog.LevelInfo},
	outcome.Internal:   {Status: http.StatusInternalServerError, Evidence: EvidenceFailure, Level: slog.LevelError},
}

// ArmExposed is the Arm of an Outcome whose user has the feature.
const ArmExposed = "exposed"

// EvidenceOf is the evidence of a request. On the exposed arm, only requests
// count on which automation acted; on the control arm, all do.
func EvidenceOf(o outcome.Outcome) Evidence {
	isOnArm := o.UserID != "" && o.Arm != ""
	isUnaffected := o.Arm == ArmExposed && o.Skipped
	if !isOnArm || isUnaffected {
		return ""
	}
	return Of(o.Cause).Evidence
}

// CauseOf guesses the cause of an answer from its status, for answers of a host's
// own handler. A 429 is the model's limit, any other 4xx the client's error, and a
// 5xx the provider's.
func CauseOf(status int) outcome.Cause {
	switch {
	case status >= http.StatusInternalServerError:
		return outcome.Provider
	case status == http.StatusTooManyRequests:
		return outcome.Model
	case status >= http.StatusBadRequest:
		return outcome.Client
	}
	return outcome.None
}
