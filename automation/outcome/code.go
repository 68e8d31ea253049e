package outcome

// Code is an error's code on the chat path, as clients see it, or the reason
// why automation did not act on a request.
type Code string

// The codes of errors.
const (
	CodeModelNotFound      Code = "model_not_found"
	CodeModelTypeMismatch  Code = "model_type_mismatch"
	CodeInvalidBody        Code = "invalid_body"
	CodeBodyTooLarge       Code = "body_too_large"
	CodeBodyTimeout        Code = "body_timeout"
	CodeUnsupportedMedia   Code = "unsupported_media_type"
	CodeInvalidKey         Code = "invalid_api_key"
	CodeInvalidSession     Code = "invalid_session_id"
	CodeSessionNotFound    Code = "session_not_found"
	CodeSessionEnded       Code = "session_ended"
	CodeSessionRequired    Code = "session_required"
	CodeUnknownURL         Code = "unknown_url"
	CodeMethodNotAllowed   Code = "method_not_allowed"
	CodeBudgetExceeded     Code = "session_budget_exceeded"
	CodeSessionUnavailable Code = "session_unavailable"
	CodeOverloaded         Code = "overloaded" // the process's memory for request bodies is in use
	CodeProviderError      Code = "provider_error"
	CodeProviderTimeout    Code = "provider_timeout"
	CodeModelError         Code = "model_error" // the client sees the model's own code
	CodeStreamInterrupted  Code = "stream_interrupted"
	CodeHandlerError       Code = "handler_error" // the host's handler answered with an error; no client sees the code
	CodeClientLeft         Code = "client_left"   // no client sees it
	CodeInternal           Code = "internal_error"
)

// The reasons why automation did not act on a request.
const (
	SkipMethod     Code = "method"      // no POST
	SkipMasterOff  Code = "master_off"  // the process's master switch is off
	SkipNobody     Code = "nobody"      // it belongs to nobody
	SkipNotIn      Code = "not_in"      // the user does not have the feature
	SkipOptedOut   Code = "opted_out"   // the user has it off
	SkipOwnSession Code = "own_session" // it names a session that the module does not manage
)

// Codes lists the codes of errors.
func Codes() []Code {
	return []Code{CodeModelNotFound, CodeModelTypeMismatch, CodeInvalidBody, CodeBodyTooLarge, CodeBodyTimeout, CodeUnsupportedMedia, CodeInvalidKey,
		CodeInvalidSession, CodeSessionNotFound, CodeSessionEnded, CodeSessionRequired, CodeUnknownURL, CodeMethodNotAllowed,
		CodeBudgetExceeded, CodeSessionUnavailable, CodeOverloaded, CodeProviderError, CodeProviderTimeout, CodeModelError,
		CodeStreamInterrupted, CodeHandlerError, CodeClientLeft, CodeInternal}
}

// Skips lists the reasons why automation did not act.
func Skips() []Code {
	return []Code{SkipMethod, SkipMasterOff, SkipNobody, SkipNotIn, SkipOptedOut, SkipOwnSession}
}

// codeRule is what a code of an error goes with.
type codeRule struct {
	status int // 0: the cause's
	causes []Cause
}

var codeRules = map[Code]codeRule{
	CodeModelNotFound:      {400, []Cause{Client}},
	CodeModelTypeMismatch:  {400, []Cause{Client}},
	CodeInvalidBody:        {400, []Cause{Client}},
	CodeBodyTooLarge:       {413, []Cause{Client}},
	CodeBodyTimeout:        {408, []Cause{Client}},
	CodeUnsupportedMedia:   {415, []Cause{Client}},
	CodeInvalidKey:         {401, []Cause{Client}},
	CodeInvalidSession:     {400, []Cause{Client}},
	CodeSessionNotFound:    {404, []Cause{Client}},
	CodeSessionEnded:       {404, []Cause{Client}},
	CodeSessionRequired:    {400, []Cause{Off}},
	CodeUnknownURL:         {404, []Cause{Client}},
	CodeMethodNotAllowed:   {405, []Cause{Client}},
	CodeBudgetExceeded:     {429, []Cause{Limit}},
	CodeSessionUnavailable: {503, []Cause{Busy, Opening, Database, Host, Node, Session, Provider}},
	CodeOverloaded:         {0, []Cause{Busy}},
	CodeProviderError:      {502, []Cause{Provider}},
	CodeProviderTimeout:    {504, []Cause{Provider}},
	CodeModelError:         {0, []Cause{Model}},
	CodeStreamInterrupted:  {502, []Cause{Provider, Database, Host, Node, Session}},
	CodeHandlerError:       {0, []Cause{Client, Model, Provider, Host}},
	CodeClientLeft:         {0, []Cause{ClientLeft}},
	CodeInternal:           {0, []Cause{Internal}},
}

// Causes lists what a request that ended with the code can have ended for;
// none for a reason of Skip….
func (c Code) Causes() []Cause { return codeRules[c].causes }

// Status is what a request that ended with a cause and a code is answered
// with; 0 where the answer is not ours to make.
func Status(cause Cause, code Code) int {
	if status := codeRules[code].status; status != 0 {
		return status
	}
	return cause.Policy().Status
}
