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
	CodeClientLeft         Code = "client_left"   // no client sees the code
	CodeInternal           Code = "internal_error"
)

// The reasons why automation did not act on a request.
const (
	SkipMethod     Code = "method"      // the request is not a POST
	SkipMasterOff  Code = "master_off"  // the process's master switch is off
	SkipNobody     Code = "nobody"      // the request has no user
	SkipNotIn      Code = "not_in"      // the user does not have the feature
	SkipOptedOut   Code = "opted_out"   // the user has turned automation off
	SkipOwnSession Code = "own_session" // the request names a session that the module does not manage
)
