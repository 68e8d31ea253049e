package automation

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// apiError is an error in OpenAI's shape, as the client sees it.
type apiError struct {
	status int
	retry  time.Duration // Retry-After, if positive
	body   errorBody
	cause  error // for the log
}

type errorBody struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
	Param   string `json:"param,omitempty"`

	Suggestions   []string `json:"suggestions,omitempty"`
	ResolvedModel string   `json:"resolved_model,omitempty"`
	ResolvedID    string   `json:"resolved_id,omitempty"`
	RequestedType string   `json:"requested_type,omitempty"`
	ModelType     string   `json:"model_type,omitempty"`
}

// Error is for the log. It leaves the message out: a provider's may repeat the
// user's prompt.
func (e *apiError) Error() string {
	if e.cause == nil {
		return e.body.Code
	}
	return e.body.Code + ": " + e.cause.Error()
}

func (e *apiError) Unwrap() error { return e.cause }

func newAPIError(status int, kind, code, message string, cause error) *apiError {
	return &apiError{status: status, body: errorBody{Message: message, Type: kind, Code: code}, cause: cause}
}

// write answers with the error.
func (e *apiError) write(w http.ResponseWriter) {
	h := w.Header()
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds(e.retry)))
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	w.WriteHeader(e.status)
	_, _ = w.Write(e.json())
}

func (e *apiError) json() []byte {
	b, err := json.Marshal(struct {
		Error errorBody `json:"error"`
	}{e.body})
	if err != nil {
		panic(err) // texts only
	}
	return b
}

// seconds is a Retry-After: whole ones, at least one.
func seconds(d time.Duration) int { return max(int(math.Ceil(d.Seconds())), 1) }

// The types and codes of errors.
const (
	typeInvalid     = "invalid_request_error"
	typeLimit       = "rate_limit_error"
	typeUnavailable = "service_unavailable"
	typeUpstream    = "upstream_error"

	codeModelNotFound      = "model_not_found"
	codeModelTypeMismatch  = "model_type_mismatch"
	codeBudgetExceeded     = "session_budget_exceeded"
	codeSessionUnavailable = "session_unavailable"
	codeSessionNotFound    = "session_not_found"
	codeSessionEnded       = "session_ended"
	codeInvalidBody        = "invalid_body"
	codeBodyTooLarge       = "body_too_large"
	codeProviderError      = "provider_error"
	codeInvalidKey         = CodeInvalidKey
	codeSessionRequired    = "session_required"
	codeUnknownURL         = "unknown_url"
	codeMethodNotAllowed   = "method_not_allowed"
	codeInterrupted        = "stream_interrupted"
)

// retrySoon is when to come back where nobody knows better.
const retrySoon = 5 * time.Second

// modelError is the answer to a model that cannot be had.
func modelError(err error) *apiError {
	if nf, ok := errors.AsType[*mapping.NotFoundError](err); ok {
		e := newAPIError(http.StatusBadRequest, typeInvalid, codeModelNotFound, fmt.Sprintf("The model %q is not known.", nf.Name), err)
		if len(nf.Suggestions) > 0 {
			e.body.Message += " Did you mean " + strings.Join(nf.Suggestions, ", ") + "?"
		}
		e.body.Param, e.body.Suggestions = "model", nf.Suggestions
		return e
	}
	if tm, ok := errors.AsType[*mapping.TypeMismatchError](err); ok {
		e := newAPIError(http.StatusBadRequest, typeInvalid, codeModelTypeMismatch,
			fmt.Sprintf("The model %q is of type %s; this route takes %s.", tm.ResolvedModel, tm.ModelType, tm.RequestedType), err)
		e.body.Param, e.body.ResolvedModel, e.body.ResolvedID = "model", tm.ResolvedModel, tm.ResolvedID
		e.body.RequestedType, e.body.ModelType = string(tm.RequestedType), string(tm.ModelType)
		return e
	}
	return unavailable("The table of models is not loaded.", retrySoon, err)
}

// bodyError is the answer to a body in which no model can be looked for.
func bodyError(err error, limit int64) *apiError {
	if errors.Is(err, modelscan.ErrTooLarge) {
		return newAPIError(http.StatusRequestEntityTooLarge, typeInvalid, codeBodyTooLarge,
			fmt.Sprintf("The request's body is larger than %d bytes.", limit), err)
	}
	return newAPIError(http.StatusBadRequest, typeInvalid, codeInvalidBody, "The request's body cannot be read, or is not what its Content-Type says.", err)
}

// sessionError is the answer to a request that got no session.
func sessionError(err error) *apiError {
	switch {
	case errors.Is(err, session.ErrNotYours):
		return newAPIError(http.StatusNotFound, typeInvalid, codeSessionNotFound, "There is no such session.", err)
	case errors.Is(err, session.ErrEnded):
		return newAPIError(http.StatusNotFound, typeInvalid, codeSessionEnded, "The session has ended. Leave session_id out to get another.", err)
	}
	if b, ok := errors.AsType[*session.BudgetError](err); ok {
		e := newAPIError(http.StatusTooManyRequests, typeLimit, codeBudgetExceeded, budgetMessages[b.Limit], err)
		e.retry = b.RetryAfter
		return e
	}
	message, retry := "No session can be had at the moment.", retrySoon
	if u, ok := errors.AsType[*session.UnavailableError](err); ok {
		retry = u.RetryAfter
		switch {
		case errors.Is(err, session.ErrUnauthorized): // the operators' business; the log has it
		case errors.Is(err, session.ErrBusy):
			message = "All of your sessions of this model stayed in use."
		case errors.Is(err, session.ErrOpening):
			message = "The session is still being opened."
		case errors.Is(err, session.ErrUnavailable):
			message = "The Morpheus node cannot be reached at the moment."
		case errors.Is(err, session.ErrNotOpened):
			message = "No provider gives a session for this model at the moment."
		}
	}
	return unavailable(message, retry, err)
}

var budgetMessages = map[string]string{
	session.LimitHour:     "You have opened as many sessions in this hour as you may.",
	session.LimitDay:      "You have opened as many sessions today as you may.",
	session.LimitSessions: "You hold as many open sessions of other models as you may.",
	session.LimitTotal:    "The gateway holds as many open sessions as it may.",
}

func unavailable(message string, retry time.Duration, cause error) *apiError {
	e := newAPIError(http.StatusServiceUnavailable, typeUnavailable, codeSessionUnavailable, message, cause)
	e.retry = retry
	return e
}
