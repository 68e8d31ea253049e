package automation

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
)

// passed are the headers of an answer that are the client's business.
var passed = []string{"Content-Type", "Content-Length", "Content-Encoding", "Content-Disposition", "Cache-Control"}

// pass hands a good answer on, each piece as it comes. Its last piece waits
// until the session is free again: a client that has seen it may send the next
// request at once, which is not to open a session of its own.
func (f *forwarding) pass(ctx context.Context, resp *http.Response) {
	h := f.w.Header()
	for _, name := range passed {
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
	piece, last := make([]byte, 32<<10), []byte(nil)
	for {
		n, err := resp.Body.Read(piece)
		if n > 0 {
			if !f.write(last, !whole) {
				return
			}
			last = nil
			left -= int64(n)
			if whole && left <= 0 || stream && endsStream(piece[:n]) {
				last = bytes.Clone(piece[:n])
			} else if !f.write(piece[:n], !whole) {
				return
			}
		}
		if errors.Is(err, io.EOF) {
			f.release()
			f.write(last, !whole)
			return
		}
		if err != nil {
			f.write(last, !whole)
			f.broken(ctx, stream, err)
			return
		}
	}
}

// endsStream tells whether a piece holds the last event of OpenAI's streams,
// after which clients read no further.
func endsStream(piece []byte) bool {
	return bytes.HasSuffix(bytes.TrimRight(piece, "\r\n"), []byte("data: [DONE]"))
}

// write tells whether the client is still there.
func (f *forwarding) write(piece []byte, flush bool) bool {
	if len(piece) == 0 {
		return true
	}
	_, err := f.w.Write(piece)
	if err == nil && flush {
		_ = http.NewResponseController(f.w).Flush()
	}
	return err == nil
}

// broken ends an answer that has begun: a stream with a last word, anything
// else by cutting the connection, so that nobody takes half of it for all.
func (f *forwarding) broken(ctx context.Context, stream bool, err error) {
	if f.r.Context().Err() == nil {
		f.m.log.WarnContext(f.r.Context(), "the answer broke off", "request_id", clipped(f.request.RequestID),
			"error", errors.Join(err, context.Cause(ctx)))
		f.broke = true
		failWitness(f.r.Context())
		f.m.observer.ObserveChat(Failed, codeInterrupted, f.overhead)
	}
	if !stream {
		panic(http.ErrAbortHandler)
	}
	e := newAPIError(http.StatusBadGateway, typeUpstream, codeInterrupted, "The provider's answer broke off.", nil)
	f.write(bytes.Join([][]byte{[]byte("\n\ndata: "), e.json(), []byte("\n\n")}, nil), true)
}
