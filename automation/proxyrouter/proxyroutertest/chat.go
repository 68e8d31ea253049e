package proxyroutertest

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// expiredError is the error of a chat on a session that has expired at its provider.
const expiredError = "provider request failed: provider error: session expired"

// answerFunc writes a model's answer.
type answerFunc func(x *chat)

// chat is a forwarded request at its provider.
type chat struct {
	n       *Node
	w       http.ResponseWriter
	r       *http.Request
	body    []byte
	history []exchange // the transcript of its chat_id
	ending  Fault      // how a stream ends; the zero Fault completes it

	// release frees the session. It is called before the last byte is written,
	// because a client may send its next request as soon as it has that byte.
	release func()

	text string // the answer, for the transcript
}

// chat serves a forwarded request on its session.
func (n *Node) chat(answer answerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-Id"); id != "" {
			w.Header().Set("X-Request-Id", id)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			writeError(w, http.StatusBadRequest, "cannot read the body")
			return
		}
		id, chatID, err := readIDs(r.Header)
		if err != nil {
			writeError(w, http.StatusBadRequest, "session_id, model_id or chat_id: "+err.Error())
			return
		}
		s, err := n.findSession(id)
		if err != nil {
			writeError(w, http.StatusInternalServerError, err.Error())
			return
		}
		release, err := n.acquire(s)
		if err != nil {
			writeError(w, http.StatusInternalServerError, err.Error())
			return
		}
		defer release()
		if err := n.askProvider(s); err != nil {
			release()
			writeError(w, http.StatusInternalServerError, err.Error())
			return
		}
		x := &chat{n: n, w: w, r: r, body: body, release: release}
		if chatID != "" && r.URL.Path == "/v1/chat/completions" {
			x.history = n.transcript(chatID)
			x.body = prependHistory(body, x.history)
			defer func() { n.addExchange(chatID, body, x.text) }()
		}
		if n.opts.OnChat != nil {
			n.opts.OnChat(r, x.body)
		}
		f, ok := n.takeFault(OpChat, s.ModelID, s.Provider)
		if !ok {
			answer(x)
			return
		}
		if f.Mode.endsStream() {
			x.ending = f
			answer(x)
			return
		}
		if f.Mode == ModeDrop || (f.Mode == ModeAnswer && !f.After) {
			// The fault ends the chat without an answer of the model. The session is
			// freed before the client notices.
			n.pause(f.Delay)
			f.Delay = 0
			release()
		}
		n.inject(f, w, r, func(w http.ResponseWriter, r *http.Request) {
			x.w, x.r = w, r
			answer(x)
		})
	})
}

// readIDs returns the canonical session_id and chat_id of a forwarded request. A
// malformed model_id is an error, too.
func readIDs(h http.Header) (session, chat string, err error) {
	session, err = parseID(h.Get("session_id"))
	if chat = h.Get("chat_id"); err == nil && chat != "" {
		chat, err = parseID(chat)
	}
	if model := h.Get("model_id"); err == nil && model != "" {
		_, err = parseID(model)
	}
	return session, chat, err
}

// findSession returns the session of a chat if the consumer's node knows it and
// its provider.
func (n *Node) findSession(id string) (*session, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.selfClose()
	s := n.sessions[id]
	if s == nil {
		n.counts.Unknown++
		return nil, errors.New("session not found")
	}
	if text := n.forgotten[strings.ToLower(s.Provider)]; text == consumerForgot {
		return nil, errors.New(text)
	}
	return s, nil
}

// askProvider counts a chat that the provider serves, or returns the provider's
// reason not to. A session that was closed before its end still serves chats,
// because neither the node nor the provider checks the chain.
func (n *Node) askProvider(s *session) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch text := n.forgotten[strings.ToLower(s.Provider)]; {
	case text != "":
		return errors.New(text)
	case s.expired, !n.opts.Now().Before(s.EndsAt):
		return errors.New(expiredError)
	}
	n.counts.Chats++
	s.Chats++
	if !s.ClosedAt.IsZero() {
		n.counts.ChatsOnClosed++
	}
	return nil
}

// acquire waits until the session is free and takes it. A request that finds it
// busy counts as an overlap. The node does not notice a client that leaves, so its
// request waits as well.
func (n *Node) acquire(s *session) (release func(), err error) {
	release = sync.OnceFunc(func() { <-s.busy })
	select {
	case s.busy <- struct{}{}:
		return release, nil
	default:
	}
	n.mu.Lock()
	n.counts.Overlaps++
	n.mu.Unlock()
	select {
	case s.busy <- struct{}{}:
		return release, nil
	case <-n.stopped:
		return nil, errors.New("request cancelled while waiting in queue: context canceled")
	}
}

// pause waits for d, or until the server is closed.
func (n *Node) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-n.stopped:
	}
}
