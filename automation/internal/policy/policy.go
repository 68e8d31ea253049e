// Package policy decides what follows from how a request ended: the
// status of its answer, the level of its log line, and whether it is evidence
// against the feature, each looked up by its [outcome.Cause].
package policy

import (
	"log/slog"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

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

// Policy is what follows from a cause.
type Policy struct {
	// Status answers where the code has no status of its own; 0 is an answer
	// that is not ours to make. A 429 and a 503 say when to come back.
	Status   int
	Evidence Evidence
	Level    slog.Level // of the request's log line
}

// Of looks the cause up in the table.
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

// EvidenceOf is what a request says about the feature. One that automation did
// not act on says nothing against it; of the control arm all requests count.
func EvidenceOf(o outcome.Outcome) Evidence {
	if o.UserID == "" || o.Arm == "" || o.Arm == ArmExposed && o.Skipped {
		return ""
	}
	return Of(o.Cause).Evidence
}

// CauseOf is the cause of an answer of which only the status is known, as of
// a host's own handler: a good one has none, a 4xx is the client's or, where it
// is a limit, the model's own, and a 5xx is charged to the provider, because
// behind a session it is the likeliest.
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
