package proxyrouter

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// ChatRequest is a request in the OpenAI format on a session.
type ChatRequest struct {
	Path      string // such as /v1/chat/completions
	SessionID string
	ModelID   string // optional: the model's id on the chain
	UserID    string // the user who made the request; scopes ChatID, and is not sent
	ChatID    string // optional: sent as a hash of UserID and ChatID
	RequestID string // optional: sent as X-Request-Id, without characters that are unsafe in headers and logs

	// Header is the client's. Only Content-Type, Content-Encoding and Accept are
	// sent, and so never the client's credentials.
	Header http.Header

	// Body is sent unchanged, except that the value of a chat's stop becomes a
	// list if it is a string, which the node does not accept.
	Body []byte
}

// Forward posts the request to the node and returns the response with its body
// unread, whatever the status. The caller closes the body, and passes the body of
// a failed response to [Client.Classify]. The wait for the response's header is
// bounded by 10 minutes, reading the body only by ctx. The package's comment lists
// what an error wraps.
func (c *Client) Forward(ctx context.Context, r ChatRequest) (*http.Response, error) {
	sessionID, err := pathID(r.SessionID)
	if err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: session: %w", opChat, err)
	}
	if !strings.HasPrefix(r.Path, "/v1/") || strings.ContainsAny(r.Path, "?#% ") || strings.Contains(r.Path, "..") {
		return nil, fmt.Errorf("proxyrouter: %s: path %q is not below /v1/", opChat, r.Path)
	}
	traced, connected := traceConnection(ctx)
	body, length := r.body()
	req, err := http.NewRequestWithContext(traced, http.MethodPost, c.base+r.Path, body())
	if err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: %w", opChat, err)
	}
	req.ContentLength = int64(length)
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(body()), nil }
	for _, name := range []string{"Content-Type", "Content-Encoding", "Accept"} {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	for name, value := range map[string]string{
		"session_id": sessionID, "model_id": r.ModelID, "chat_id": scopedChatID(r.UserID, r.ChatID), "X-Request-Id": text.RequestID(r.RequestID),
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	req.Header.Set("User-Agent", userAgent)
	c.authorize(req)

	resp, err := c.pooled.Do(req)
	if err != nil {
		failed := &exchangeError{cause: unwrapURL(err), connected: connected.Load(), byCaller: ctx.Err() != nil}
		c.noteDial(failed)
		return nil, c.transportError(opChat, failed)
	}
	c.noteContact()
	c.noteDial(nil)
	if resp.StatusCode/100 == 2 { // a 401 may be the provider's
		c.noteAuth(opChat, resp.StatusCode)
	}
	return resp, nil
}
