package policy

import (
	"maps"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// Causes lists all causes.
func Causes() []outcome.Cause {
	return []outcome.Cause{outcome.None, outcome.Client, outcome.ClientLeft, outcome.Off, outcome.Limit, outcome.Busy, outcome.Opening,
		outcome.Database, outcome.Host, outcome.Node, outcome.Session, outcome.Provider, outcome.Model, outcome.Internal}
}

// Codes lists all codes of errors, sorted.
func Codes() []outcome.Code { return slices.Sorted(maps.Keys(codeRules)) }

// Skips lists all reasons why automation does not act on a request.
func Skips() []outcome.Code {
	return []outcome.Code{outcome.SkipMethod, outcome.SkipMasterOff, outcome.SkipNobody, outcome.SkipNotIn, outcome.SkipOptedOut, outcome.SkipOwnSession}
}

// codeRule is the status of an error's code and the causes that it occurs with.
type codeRule struct {
	status int // 0 for the status of the cause
	causes []outcome.Cause
}

var codeRules = map[outcome.Code]codeRule{
	outcome.CodeModelNotFound:      {400, []outcome.Cause{outcome.Client}},
	outcome.CodeModelTypeMismatch:  {400, []outcome.Cause{outcome.Client}},
	outcome.CodeInvalidBody:        {400, []outcome.Cause{outcome.Client}},
	outcome.CodeBodyTooLarge:       {413, []outcome.Cause{outcome.Client}},
	outcome.CodeBodyTimeout:        {408, []outcome.Cause{outcome.Client}},
	outcome.CodeUnsupportedMedia:   {415, []outcome.Cause{outcome.Client}},
	outcome.CodeInvalidKey:         {401, []outcome.Cause{outcome.Client}},
	outcome.CodeInvalidSession:     {400, []outcome.Cause{outcome.Client}},
	outcome.CodeSessionNotFound:    {404, []outcome.Cause{outcome.Client}},
	outcome.CodeSessionEnded:       {404, []outcome.Cause{outcome.Client}},
	outcome.CodeSessionRequired:    {400, []outcome.Cause{outcome.Off}},
	outcome.CodeUnknownURL:         {404, []outcome.Cause{outcome.Client}},
	outcome.CodeMethodNotAllowed:   {405, []outcome.Cause{outcome.Client}},
	outcome.CodeBudgetExceeded:     {429, []outcome.Cause{outcome.Limit}},
	outcome.CodeSessionUnavailable: {503, []outcome.Cause{outcome.Busy, outcome.Opening, outcome.Database, outcome.Host, outcome.Node, outcome.Session, outcome.Provider}},
	outcome.CodeOverloaded:         {0, []outcome.Cause{outcome.Busy}},
	outcome.CodeProviderError:      {502, []outcome.Cause{outcome.Provider}},
	outcome.CodeProviderTimeout:    {504, []outcome.Cause{outcome.Provider}},
	outcome.CodeModelError:         {0, []outcome.Cause{outcome.Model}},
	outcome.CodeStreamInterrupted:  {502, []outcome.Cause{outcome.Provider, outcome.Database, outcome.Host, outcome.Node, outcome.Session}},
	outcome.CodeHandlerError:       {0, []outcome.Cause{outcome.Client, outcome.Model, outcome.Provider, outcome.Host}},
	outcome.CodeClientLeft:         {0, []outcome.Cause{outcome.ClientLeft}},
	outcome.CodeInternal:           {0, []outcome.Cause{outcome.Internal}},
}

// CausesOf lists the causes with which an error's code occurs. It lists none for
// a reason of Skip….
func CausesOf(c outcome.Code) []outcome.Cause { return codeRules[c].causes }

// Status is the status of the answer to a request that ended with a cause and a
// code. It is 0 if the module does not choose it; see [Policy].
func Status(cause outcome.Cause, code outcome.Code) int {
	if status := codeRules[code].status; status != 0 {
		return status
	}
	return Of(cause).Status
}
