package proxyrouter

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
)

// ChatRequest is a request in the OpenAI shape, bound to a session.
type ChatRequest struct {
	Path      string // such as /v1/chat/completions
	SessionID string
	ModelID   string // optional: the model's id on the chain
	ChatID    string // optional
	RequestID string // optional: sent as X-Request-Id, which the node echoes

	// Header holds what the client sent. Of it Content-Type, Content-Encoding and
	// Accept go along; the rest, the client's own credentials first, stays here.
	Header http.Header

	// Body is sent as it is, and kept: a retry needs it again.
	Body []byte
}

// Forward posts the request to the node and returns the answer unread, whatever
// its status; the caller closes its body, and hands an error's body to [Classify].
// Nothing but ctx bounds the answer's body. An error is a *[NodeError].
func (c *Client) Forward(ctx context.Context, r ChatRequest) (*http.Response, error) {
	if err := segment(r.SessionID); err != nil {
		return nil, fmt.Errorf("proxyrouter: %s: session: %w", opChat, err)
	}
	if !strings.HasPrefix(r.Path, "/v1/") || strings.ContainsAny(r.Path, "?#% ") || strings.Contains(r.Path, "..") {
		return nil, fmt.Errorf("proxyrouter: %s: path %q is not one below /v1/", opChat, r.Path)
	}
	traced, connected := trace(ctx)
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
		return nil, c.unanswered(opChat, &lostError{cause: bare(err), connected: connected.Load()})
	}
	return resp, nil
}
