package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

// client calls the admin API in process.
type client struct {
	api     http.Handler // acts as the operator in the request's context
	byToken http.Handler // checks the token in the request
}

type operatorKey struct{}

func newClient(m Admin) *client {
	return &client{
		api: m.Admin(func(r *http.Request) (string, error) {
			name, ok := r.Context().Value(operatorKey{}).(string)
			if !ok {
				return "", errors.New("console: a call without an operator")
			}
			return name, nil
		}),
		byToken: m.Admin(nil),
	}
}

// statusError is an error that the API answered with.
type statusError struct {
	status int
	detail string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.detail) }

// publicText returns the text of an error that operators see.
func publicText(err error) string {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.detail
	}
	return "Internal error: see the gateway's log."
}

// isStatus reports whether err is an answer with that status.
func isStatus(err error, status int) bool {
	s, ok := errors.AsType[*statusError](err)
	return ok && s.status == status
}

// checkToken returns the status with which the admin API answers to a token.
func (c *client) checkToken(r *http.Request, token string) int {
	sub, err := http.NewRequestWithContext(r.Context(), http.MethodGet, automation.AdminPath+"/flags", http.NoBody)
	if err != nil {
		return http.StatusInternalServerError
	}
	sub.RemoteAddr = r.RemoteAddr // guesses are limited by their source
	sub.Header.Set("Authorization", "Bearer "+token)
	w := &response{header: http.Header{}, status: http.StatusOK}
	c.byToken.ServeHTTP(w, sub)
	return w.status
}

// get decodes the answer to a GET of path, which is relative to the API's base path.
func (c *client) get(r *request, path string, query url.Values, answer any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.send(r, http.MethodGet, path, nil, nil, answer)
}

// send sends body as JSON and decodes the answer, unless answer is nil.
func (c *client) send(r *request, method, path string, header http.Header, body, answer any) error {
	w, err := c.call(r, method, path, header, body)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal(w.body.Bytes(), answer); err != nil {
		return fmt.Errorf("console: %s %s: %w", method, path, err)
	}
	return nil
}

// raw returns the answer to a GET as it is.
func (c *client) raw(r *request, path string, query url.Values) ([]byte, error) {
	w, err := c.call(r, http.MethodGet, path+"?"+query.Encode(), nil, nil)
	if err != nil {
		return nil, err
	}
	return w.body.Bytes(), nil
}

// call makes one request. It returns an error status as a *statusError.
func (c *client) call(r *request, method, path string, header http.Header, body any) (*response, error) {
	var reader io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	ctx := context.WithValue(r.Context(), operatorKey{}, "console:"+r.operator.Name)
	sub, err := http.NewRequestWithContext(ctx, method, automation.AdminPath+path, reader)
	if err != nil {
		return nil, err
	}
	sub.RemoteAddr = r.RemoteAddr
	for name, values := range header {
		sub.Header[name] = values
	}
	if body != nil {
		sub.Header.Set("Content-Type", "application/json")
	}
	w := &response{header: http.Header{}, status: http.StatusOK}
	c.api.ServeHTTP(w, sub)
	if w.status >= http.StatusMultipleChoices {
		return nil, w.failure()
	}
	return w, nil
}

// response holds an answer of the API.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(status int)      { w.status = status }
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }

// failure returns an answer of problem+json as a *statusError.
func (w *response) failure() error {
	var p struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Errors []struct {
			Field   string `json:"field"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	_ = json.Unmarshal(w.body.Bytes(), &p) // without problem+json the status's text is used
	detail := p.Detail
	for _, e := range p.Errors {
		if detail != "" {
			detail += " "
		}
		detail += e.Field + " " + e.Message + "."
	}
	if detail == "" {
		detail = http.StatusText(w.status) + "."
	}
	return &statusError{w.status, detail}
}
