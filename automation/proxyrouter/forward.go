package proxyrouter

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
)

// ChatRequest is a request in the OpenAI format on a session.
type ChatRequest struct {
	Path      string // such as /v1/chat/completions
	SessionID string
	ModelID   string // optional: the model's id on the chain
	ChatID    string // optional
	RequestID string // optional: sent as X-Request-Id, which the node echoes

	// Header is the client's. Content-Type, Content-Encoding and Accept are
	// sent; everything else is not, the client's credentials above all.
	Header http.Header

	// Body is sent unchanged.
	Body []byte
}

// Forward posts the request to the node and returns the response with its body
// unread, whatever the status. The caller closes the body, and gives that of a
// failed response to [Classify]. The wait for the response's header is bounded
// by 10 minutes, its body by ctx alone. An error is a *[NodeError].
func (c *Client) Forward(ctx context.Context, r ChatRequest) (*http.Response, error) {
	if err := checkID(r.SessionID); err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: session: %w", opChat, err)
	}
	if !strings.HasPrefix(r.Path, "/v1/") || strings.ContainsAny(r.Path, "?#% ") || strings.Contains(r.Path, "..") {
		return nil, fmt.Errorf("proxyrouter: %s: path %q is not below /v1/", opChat, r.Path)
	}
	traced, connected := traceConnection(ctx)
	req, err := http.NewRequestWithContext(traced, http.MethodPost, c.base+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: %w", opChat, err)
	}
	for _, name := range []string{"Content-Type", "Content-Encoding", "Accept"} {
		if values := r.Header.Values(name); len(values) > 0 {
			req.Header[name] = values
		}
	}
	for name, value := range map[string]string{
		"session_id": r.SessionID, "model_id": r.ModelID, "chat_id": r.ChatID, "X-Request-Id": r.RequestID,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	req.Header.Set("User-Agent", userAgent)
	c.authorize(req)

	resp, err := c.pooled.Do(req)
	if err != nil {
		return nil, c.transportError(opChat, &exchangeError{cause: unwrapURL(err), connected: connected.Load()})
	}
	return resp, nil
}
