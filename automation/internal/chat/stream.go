package chat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

// forwardedHeaders are the headers of an answer that the client receives.
var forwardedHeaders = []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Cache-Control"}

// relay writes a good answer, each chunk as it comes. Its last chunk waits
// until the session is free again: a client that has seen it may send the next
// request at once, which is not to open a session of its own.
func (f *forwarding) relay(ctx context.Context, resp *http.Response) outcome.Outcome {
	h := f.w.Header()
	for _, name := range forwardedHeaders {
		if v := resp.Header.Get(name); v != "" {
			h.Set(name, v)
		}
	}
	stream := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if stream {
		h.Del("Content-Length") // an error may follow
		h.Set("X-Accel-Buffering", "no")
	}
	f.w.WriteHeader(resp.StatusCode)
	whole := resp.ContentLength >= 0
	left := resp.ContentLength
	chunk, last := make([]byte, 32<<10), []byte(nil)
	for {
		n, err := resp.Body.Read(chunk)
		if n > 0 {
			if !f.write(last, !whole) {
				return clientLeft()
			}
			last = nil
			left -= int64(n)
			if whole && left <= 0 || stream && endsStream(chunk[:n]) {
				last = bytes.Clone(chunk[:n])
			} else if !f.write(chunk[:n], !whole) {
				return clientLeft()
			}
		}
		if errors.Is(err, io.EOF) {
			f.release()
			f.write(last, !whole)
			return outcome.Outcome{Cause: outcome.None}
		}
		if err != nil {
			f.write(last, !whole)
			return f.abortStream(ctx, stream, err)
		}
	}
}

func clientLeft() outcome.Outcome {
	return outcome.Outcome{Cause: outcome.ClientLeft, Code: outcome.CodeClientLeft}
}

// endsStream reports whether a chunk holds the last event of OpenAI's streams,
// after which clients read no further.
func endsStream(chunk []byte) bool {
	return bytes.HasSuffix(bytes.TrimRight(chunk, "\r\n"), []byte("data: [DONE]"))
}

// write reports whether the client is still there.
func (f *forwarding) write(chunk []byte, flush bool) bool {
	if len(chunk) == 0 {
		return true
	}
	_, err := f.w.Write(chunk)
	if err == nil && flush {
		_ = http.NewResponseController(f.w).Flush()
	}
	return err == nil
}

// abortStream ends an answer that was truncated: a stream with an event that
// says so, anything else by cutting the connection, so that nobody takes half
// of it for all.
func (f *forwarding) abortStream(ctx context.Context, stream bool, err error) outcome.Outcome {
	e := newError(outcome.Provider, outcome.CodeStreamInterrupted, "The provider's answer broke off.", errors.Join(err, context.Cause(ctx)))
	if stream {
		f.write(bytes.Join([][]byte{[]byte("\n\ndata: "), e.json(), []byte("\n\n")}, nil), true)
	} else {
		f.abort = true
	}
	return e.outcome()
}
