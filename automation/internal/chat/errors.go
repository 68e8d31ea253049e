package chat

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
	"github.com/MorpheusAIs/gateway-automation/internal/reqbody"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// apiError is an error in OpenAI's shape, as the client sees it, and its cause.
type apiError struct {
	cause  outcome.Cause
	code   outcome.Code
	status int
	retry  time.Duration // Retry-After, if positive
	body   errorBody
	err    error // for the log
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

// Error is for the log. It omits the message, because a provider's message may
// repeat the user's prompt.
func (e *apiError) Error() string {
	if e.err == nil {
		return string(e.code)
	}
	return string(e.code) + ": " + e.err.Error()
}

func (e *apiError) Unwrap() error { return e.err }

// newError makes an error with the status that package policy has for the cause
// and the code.
func newError(cause outcome.Cause, code outcome.Code, message string, err error) *apiError {
	status := policy.Status(cause, code)
	e := &apiError{cause: cause, code: code, status: status, err: err,
		body: errorBody{Message: message, Type: errorType(status), Code: string(code)}}
	if status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests {
		e.retry = retrySoon
	}
	return e
}

// errorType is OpenAI's error type for a status.
func errorType(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status < http.StatusInternalServerError:
		return "invalid_request_error"
	case status == http.StatusServiceUnavailable:
		return "service_unavailable"
	case status == http.StatusInternalServerError:
		return "server_error"
	}
	return "upstream_error"
}

func (e *apiError) outcome() outcome.Outcome {
	return outcome.Outcome{Cause: e.cause, Code: e.code, Err: e.err}
}

// write answers with the error.
func (e *apiError) write(w http.ResponseWriter) {
	h := w.Header()
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds(e.retry)))
	}
	if e.retry >= longWait {
		// OpenAI's SDKs would silently sleep that long and then give up.
		h.Set("X-Should-Retry", "false")
	}
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Del("Content-Length")
	w.WriteHeader(e.status)
	_, _ = w.Write(e.json()) //nolint:gosec // JSON, which escapes <, > and &, with a media type of its own
}

func (e *apiError) json() []byte {
	b, err := json.Marshal(struct {
		Error errorBody `json:"error"`
	}{e.body})
	if err != nil {
		panic(err) // impossible: there are only strings
	}
	return b
}

// seconds rounds a duration up to the whole seconds of a Retry-After, at least
// one.
func seconds(d time.Duration) int { return max(int(math.Ceil(d.Seconds())), 1) }

// unreadTimeout bounds the time that a client has to finish sending a body that
// is not read, before the server closes the connection.
const unreadTimeout = time.Second

// retrySoon is the Retry-After if no better estimate is known.
const retrySoon = 5 * time.Second

// longWait is the shortest Retry-After for which an interactive client should
// inform its user instead of sleeping.
const longWait = time.Minute

// writeError answers with an error and returns the call's outcome.
func (c *call) writeError(err error) outcome.Outcome {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		e = newError(outcome.Internal, outcome.CodeInternal, "The request could not be served.", err)
	}
	if c.body == nil && c.r.ContentLength != 0 {
		reqbody.LimitUnread(c.w, unreadTimeout)
	}
	e.write(c.w)
	return e.outcome()
}

func clientError(code outcome.Code, message string, err error) *apiError {
	return newError(outcome.Client, code, message, err)
}

// unavailable is the answer to a request that can get no session at the moment.
func unavailable(cause outcome.Cause, message string, retry time.Duration, err error) *apiError {
	e := newError(cause, outcome.CodeSessionUnavailable, message, err)
	e.retry = retry
	return e
}

func identityUnavailable(err error) *apiError {
	return unavailable(outcome.Host, "Your identity cannot be checked at the moment.", retrySoon, err)
}

// modelError is the answer to a request whose model cannot be resolved.
func modelError(err error) *apiError {
	if nf, ok := errors.AsType[*mapping.NotFoundError](err); ok {
		e := clientError(outcome.CodeModelNotFound, fmt.Sprintf("The model %q is not known.", nf.Name), err)
		if len(nf.Suggestions) > 0 {
			e.body.Message += " Did you mean " + strings.Join(nf.Suggestions, ", ") + "?"
		}
		e.body.Param, e.body.Suggestions = "model", nf.Suggestions
		return e
	}
	if tm, ok := errors.AsType[*mapping.TypeMismatchError](err); ok {
		e := clientError(outcome.CodeModelTypeMismatch,
			fmt.Sprintf("The model %q is of type %s; this route takes %s.", tm.ResolvedModel, tm.ModelType, tm.RequestedType), err)
		e.body.Param, e.body.ResolvedModel, e.body.ResolvedID = "model", tm.ResolvedModel, tm.ResolvedID
		e.body.RequestedType, e.body.ModelType = string(tm.RequestedType), string(tm.ModelType)
		return e
	}
	return unavailable(outcome.Host, "The table of models is not loaded.", retrySoon, err)
}

// bodyError is the answer to a request whose body cannot be read or parsed.
func bodyError(err error, limit int64) *apiError {
	switch {
	case errors.Is(err, reqbody.ErrTooLarge):
		return clientError(outcome.CodeBodyTooLarge, fmt.Sprintf("The request's body is larger than %d bytes.", limit), err)
	case errors.Is(err, reqbody.ErrTooSlow):
		return clientError(outcome.CodeBodyTimeout, "The request's body came too slowly.", err)
	case errors.Is(err, reqbody.ErrOverBudget):
		return newError(outcome.Busy, outcome.CodeOverloaded, "The gateway is busy with large requests. Send yours again.", err)
	case errors.Is(err, modelscan.ErrNoString):
		e := clientError(outcome.CodeInvalidBody, "The field model must be a string of at most 1024 bytes.", err)
		e.body.Param = "model"
		return e
	}
	return clientError(outcome.CodeInvalidBody, "The request's body cannot be read, or is not what its Content-Type says.", err)
}

// sessionError is the answer to a request that got no session.
func sessionError(err error) *apiError {
	if b, ok := errors.AsType[*session.BudgetError](err); ok {
		e := newError(outcome.Limit, outcome.CodeBudgetExceeded, budgetMessages[b.Limit], err)
		e.retry = b.RetryAfter
		return e
	}
	retry := retrySoon
	if u, ok := errors.AsType[*session.UnavailableError](err); ok {
		retry = u.RetryAfter
	}
	switch {
	case errors.Is(err, session.ErrNotYours):
		return clientError(outcome.CodeSessionNotFound, "There is no such session.", err)
	case errors.Is(err, session.ErrEnded):
		return clientError(outcome.CodeSessionEnded, "The session has ended. Leave session_id out to get another.", err)
	case errors.Is(err, session.ErrNotRunning):
		return unavailable(outcome.Host, "This replica is starting or stopping.", retry, err)
	case errors.Is(err, session.ErrUnauthorized): // operators find the reason in the log
		return unavailable(outcome.Node, "No session is available at the moment.", retry, err)
	case errors.Is(err, session.ErrBusy):
		return unavailable(outcome.Busy, "All of your sessions of this model stayed in use.", retry, err)
	case errors.Is(err, session.ErrOpening):
		return unavailable(outcome.Opening, "The session is still being opened.", retry, err)
	case errors.Is(err, session.ErrUnavailable):
		return unavailable(outcome.Node, "The Morpheus node cannot be reached at the moment.", retry, err)
	case errors.Is(err, session.ErrNotOpened):
		return unavailable(outcome.Provider, "No provider offers a session for this model at the moment.", retry, err)
	}
	return unavailable(outcome.Database, "No session is available at the moment.", retry, err)
}

// budgetMessages say which limit is reached and what the user can do.
var budgetMessages = map[string]string{
	session.LimitHour: "You have opened as many sessions in this hour as you may. " +
		"You can still use the models of your open sessions; GET /api/v1/automation/status says when you may open another one.",
	session.LimitDay: "You have opened as many sessions today as you may. " +
		"You can still use the models of your open sessions; GET /api/v1/automation/status says when you may open another one.",
	session.LimitSessions: "You use or hold as many sessions of other models as you may. " +
		"Use one of those models, or end a session: GET and DELETE /api/v1/automation/sessions.",
	session.LimitTotal: "The gateway holds as many open sessions as it may. Use a model for which you have an open session, or try again later.",
}
