package proxyroutertest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// holder is a request that a session serves.
type holder struct {
	ctx       context.Context
	done      chan struct{} // closed when it is served
	left      bool          // its client had gone by then; read after done
	contended atomic.Bool   // somebody waits to see how it ends
}

const (
	// A request that meets a holder waits this long to see whether the holder's
	// client has left: the news of that may travel slower than the next request.
	noticeLeave = 2 * time.Second
	// And a holder somebody waits for looks that long before it says that its client stayed.
	noticeLeaveAtEnd = 200 * time.Millisecond
)

// answerer writes a model's answer. Free gives the session back; it is to be
// called before the last byte is written, because the client may send the next
// request as soon as it has that.
type answerer func(x *exchange)

type exchange struct {
	w     http.ResponseWriter
	r     *http.Request
	body  []byte
	delay time.Duration
	free  func()
}

// chat serves a forwarded request on its session.
func (n *Node) chat(answer answerer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-Id"); id != "" {
			w.Header().Set("X-Request-Id", id)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			fail(w, http.StatusBadRequest, "cannot read the body")
			return
		}
		id := strings.ToLower(r.Header.Get("session_id"))
		if !hash32.MatchString(id) {
			fail(w, http.StatusBadRequest, "session_id header is missing or malformed")
			return
		}
		s, free, status, text := n.hold(r.Context(), id, r.Header.Get("model_id"))
		if s == nil {
			fail(w, status, text)
			return
		}
		defer free()
		if n.opts.OnChat != nil {
			n.opts.OnChat(r, body)
		}
		work := func(w http.ResponseWriter, r *http.Request) {
			answer(&exchange{w: w, r: r, body: body, delay: n.opts.ChunkDelay, free: free})
		}
		f, ok := n.next(OpChat, s.ModelID, s.Provider)
		if !ok {
			work(w, r)
			return
		}
		if f.Mode == Drop || (f.Mode == Answer && !f.After) {
			sleep(r, f.Delay)
			f.Delay = 0
			free()
		}
		f.run(w, r, work)
	})
}

// hold takes the session for a request, or tells why not.
func (n *Node) hold(ctx context.Context, id, model string) (s *paid, free func(), status int, text string) {
	for {
		n.mu.Lock()
		n.selfClose()
		s = n.sessions[id]
		switch {
		case s == nil:
			n.counts.Unknown++
			n.mu.Unlock()
			return nil, nil, http.StatusInternalServerError, "session not found"
		case s.expired, !s.ClosedAt.IsZero(), !n.opts.Now().Before(s.EndsAt):
			n.mu.Unlock()
			return nil, nil, http.StatusInternalServerError, expiredText
		case model != "" && !strings.EqualFold(model, s.ModelID):
			n.mu.Unlock()
			return nil, nil, http.StatusBadRequest, "model_id is not the session's"
		}
		other := s.holder
		if other == nil {
			h := &holder{ctx: ctx, done: make(chan struct{})}
			s.holder = h
			n.counts.Chats++
			s.Chats++
			n.mu.Unlock()
			var freed atomic.Bool
			return s, func() {
				if freed.CompareAndSwap(false, true) {
					n.release(s, h)
				}
			}, 0, ""
		}
		other.contended.Store(true)
		n.mu.Unlock()
		if !other.leaves() {
			n.mu.Lock()
			n.counts.Overlaps++
			n.mu.Unlock()
			return nil, nil, http.StatusConflict, "the session is serving another request"
		}
	}
}

// leaves tells whether the holder ends because its client is gone.
func (h *holder) leaves() bool {
	t := time.NewTimer(noticeLeave)
	defer t.Stop()
	select {
	case <-h.ctx.Done():
		<-h.done
		return h.left
	case <-h.done:
		return h.left
	case <-t.C:
		return false
	}
}

func (n *Node) release(s *paid, h *holder) {
	if h.contended.Load() {
		t := time.NewTimer(noticeLeaveAtEnd)
		defer t.Stop()
		select {
		case <-h.ctx.Done():
		case <-t.C:
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	h.left = h.ctx.Err() != nil
	s.holder = nil
	close(h.done)
}
