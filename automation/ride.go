package automation

import (
	"errors"
	"net/http"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/modelscan"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// The headers of a request and its answer.
const (
	headerSession   = "session_id"           // to the node, and from a client that brings its own
	headerSessionUp = "X-Automation-Session" // the session that served a request
	headerModelUp   = "X-Automation-Model"   // the name of the model that did
)

// endpoint is a route in the OpenAI shape, told by the end of its path.
type endpoint struct {
	path string // on the node
	kind mapping.Type
}

var endpoints = []endpoint{
	{"/v1/chat/completions", mapping.LLM},
	{"/v1/completions", mapping.LLM},
	{"/v1/responses", mapping.LLM},
	{"/v1/embeddings", mapping.Embedding},
	{"/v1/audio/transcriptions", mapping.STT},
	{"/v1/audio/translations", mapping.STT},
	{"/v1/audio/speech", mapping.TTS},
}

// endpointOf finds the route of a path, or one of no type where it is none of
// OpenAI's, so that a host can mount the middleware anywhere.
func endpointOf(path string) endpoint {
	path = strings.TrimSuffix(path, "/")
	for _, e := range endpoints {
		if strings.HasSuffix(path, strings.TrimPrefix(e.path, "/v1")) {
			return e
		}
	}
	return endpoint{path: path}
}

// ride is a request that travels on a session of ours.
type ride struct {
	claim *session.Claim
	want  session.Request
	model mapping.Model
	named bool // the client brought the session, so it gets no other
}

// board decides what automation does for a request: a ride, or nil where the
// request goes on untouched. The request that it returns has its whole body,
// whatever was read of it, and is to be used from then on.
func (m *Module) board(r *http.Request) (*http.Request, *ride, error) {
	if r.Method != http.MethodPost || !m.cfg.FeatureEnabled {
		return r, nil, nil
	}
	who, err := m.identify(r)
	if err != nil || !validUser(who.UserID) {
		return r, nil, nil // the host's own handler says so
	}
	if !m.flags.Decide(FlagName, who.UserID).On {
		return r, nil, nil
	}
	if id := r.Header.Get(headerSession); id != "" {
		claim, err := m.sessions.AcquireSession(r.Context(), who.UserID, id)
		if errors.Is(err, session.ErrUnmanaged) {
			return r, nil, nil
		}
		if err != nil {
			return r, nil, sessionError(err)
		}
		return r, &ride{claim: claim, named: true}, nil
	}
	mine, err := m.settings.Get(r.Context(), who.UserID)
	if err != nil {
		// What the user chose is not known. Where the default is off, most
		// have not chosen automation, and are not to be harmed.
		if !m.cfg.DefaultOptIn {
			m.log.WarnContext(r.Context(), "settings not read, the request goes on without automation", "error", err)
			return r, nil, nil
		}
		return r, nil, sessionError(err)
	}
	if !mine.IsEnabled {
		return r, nil, nil
	}
	r, model, err := m.findModel(r)
	if err != nil {
		return r, nil, err
	}
	want := session.Request{UserID: who.UserID, ModelID: model.ID, Duration: mine.SessionDuration}
	claim, err := m.sessions.Acquire(r.Context(), want)
	if err != nil {
		return r, nil, sessionError(err)
	}
	return r, &ride{claim: claim, want: want, model: model}, nil
}

// findModel reads the model's name off the body and resolves it.
func (m *Module) findModel(r *http.Request) (*http.Request, mapping.Model, error) {
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return r, mapping.Model{}, newAPIError(http.StatusUnsupportedMediaType, typeInvalid, codeInvalidBody,
			"Send the request's body without Content-Encoding.", nil)
	}
	body := r.Body
	if body == nil {
		body = http.NoBody
	}
	found, err := modelscan.Find(r.Header.Get("Content-Type"), body, m.cfg.MaxBodyBytes)
	whole := *r
	whole.Body = found.Restore(body)
	r = &whole
	if err != nil {
		return r, mapping.Model{}, bodyError(err, m.cfg.MaxBodyBytes)
	}
	if found.Kind == modelscan.Invalid {
		e := newAPIError(http.StatusBadRequest, typeInvalid, codeInvalidBody, "The field model must be a string.", nil)
		e.body.Param = "model"
		return r, mapping.Model{}, e
	}
	model, err := m.catalog.Resolve(found.Model, endpointOf(r.URL.Path).kind)
	if err != nil {
		return r, mapping.Model{}, modelError(err)
	}
	return r, model, nil
}

// announce tells the client which session and model serve it.
func (t *ride) announce(h http.Header) {
	h.Set(headerSessionUp, t.claim.SessionID())
	if t.model.Name != "" {
		h.Set(headerModelUp, headerText(t.model.Name))
	}
}

// headerText escapes what may not stand in a header's value.
func headerText(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Sessions is the session middleware; see the package's comment for what it
// does with a request. The handler finds the session in the request's header
// session_id and should stop when the request's context ends, which it also
// does when the session cannot be relied on any more.
func (m *Module) Sessions(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, t, err := m.board(r)
		if err != nil {
			m.refuse(w, r, err)
			return
		}
		if t == nil {
			next.ServeHTTP(w, r)
			return
		}
		defer t.claim.Release()
		t.announce(w.Header())
		r = r.WithContext(t.claim.Context())
		r.Header = r.Header.Clone()
		r.Header.Set(headerSession, t.claim.SessionID())
		next.ServeHTTP(w, r)
	})
}

// refuse answers with an error of the path of requests.
func (m *Module) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody waits for the answer
	}
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		e = unavailable("The request could not be served.", 0, err)
	}
	if e.status >= http.StatusInternalServerError {
		m.log.WarnContext(r.Context(), "request not served", "status", e.status, "code", e.body.Code,
			"request_id", clipped(r.Header.Get("X-Request-Id")), "error", err)
	}
	e.write(w)
}
