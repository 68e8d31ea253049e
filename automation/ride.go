package automation

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

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

// ride is a request that travels on a session of ours, or one that goes on
// untouched, with the reason.
type ride struct {
	aside string         // why it goes on untouched; empty for any other
	claim *session.Claim // nil until it is taken
	want  session.Request
	model mapping.Model
	named string // the session that the client brought, so it gets no other
}

// untouched is a ride without a session.
func untouched(reason string) *ride { return &ride{aside: reason} }

// plan decides what automation does for a user's request. The request that it
// returns has its whole body, whatever was read of it, and is to be used from
// then on.
func (m *Module) plan(r *http.Request, who Identity) (*http.Request, *ride, error) {
	if !m.cfg.FeatureEnabled {
		return r, untouched(AsideMaster), nil
	}
	d := m.decider.Decide(FlagName, who.UserID)
	m.witness(r.Context(), who.UserID, d)
	if !d.On {
		return r, untouched(AsideRollout), nil
	}
	if r.Header.Get(headerSession) != "" {
		return r, namedRide(r, who), nil
	}
	mine, err := m.settings.Get(r.Context(), who.UserID)
	if err != nil {
		// What the user chose is not known. Where the default is off, most
		// have not chosen automation, and are not to be harmed.
		if !m.cfg.DefaultOptIn {
			m.log.WarnContext(r.Context(), "settings not read, the request goes on without automation", "error", err)
			return r, untouched(AsideSettings), nil
		}
		return r, nil, sessionError(err)
	}
	if !mine.IsEnabled {
		return r, untouched(AsideOptedOut), nil
	}
	r, model, err := m.findModel(r)
	if err != nil {
		return r, nil, err
	}
	return r, &ride{model: model, want: session.Request{UserID: who.UserID, ModelID: model.ID, Duration: mine.SessionDuration}}, nil
}

// namedRide is one on the session that the client names, where that can be one
// of ours.
func namedRide(r *http.Request, who Identity) *ride {
	id := storedID(r.Header.Get(headerSession))
	if id == "" {
		return untouched(AsideSession)
	}
	return &ride{named: id, want: session.Request{UserID: who.UserID}}
}

// storedID is a session's id as it is stored, or "" where none of ours can have
// it. A node takes hex digits in either case, so both must mean one session.
func storedID(id string) string {
	if len(id) > 128 || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return ""
	}
	if len(id) > 2 && strings.EqualFold(id[:2], "0x") {
		return strings.ToLower(id)
	}
	return id
}

// take claims the session of a planned ride. Where the one that the client
// named is none of ours, the request goes on untouched.
func (m *Module) take(ctx context.Context, t *ride) (*ride, error) {
	if t.aside != "" {
		return t, nil
	}
	var err error
	if t.named != "" {
		t.claim, err = m.sessions.AcquireSession(ctx, t.want.UserID, t.named)
	} else {
		t.claim, err = m.sessions.Acquire(ctx, t.want)
	}
	if t.named != "" && errors.Is(err, session.ErrUnmanaged) {
		return untouched(AsideSession), nil
	}
	if err != nil {
		return nil, sessionError(err)
	}
	return t, nil
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
// does with a request. Mount it on routes in the OpenAI shape alone: every POST
// through it may have a session opened. The handler finds the session in the
// request's header session_id and should stop when the request's context ends,
// which it also does when the session cannot be relied on any more.
func (m *Module) Sessions(next http.Handler) http.Handler {
	return m.evident(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := m.now()
		r, t, err := m.board(r)
		overhead := m.now().Sub(begun)
		switch {
		case err != nil:
			m.refuse(w, r, err, overhead)
			return
		case t.aside != "":
			m.observer.ObserveChat(Untouched, t.aside, overhead)
			clearWitness(r.Context())
			next.ServeHTTP(w, r)
			return
		}
		m.observer.ObserveChat(Served, "", overhead)
		defer t.claim.Release()
		t.announce(w.Header())
		r = r.WithContext(t.claim.Context())
		r.Header = r.Header.Clone()
		r.Header.Set(headerSession, t.claim.SessionID())
		next.ServeHTTP(w, r)
	}))
}

// board plans and takes the ride of a request on its way to a host's handler,
// who is the one to turn away what belongs to nobody.
func (m *Module) board(r *http.Request) (*http.Request, *ride, error) {
	if r.Method != http.MethodPost {
		return r, untouched(AsideMethod), nil
	}
	if !m.cfg.FeatureEnabled {
		return r, untouched(AsideMaster), nil
	}
	who, err := m.identify(r)
	if err != nil || !validUser(who.UserID) {
		return r, untouched(AsideNobody), nil
	}
	r, t, err := m.plan(r, who)
	if err != nil {
		return r, nil, err
	}
	t, err = m.take(r.Context(), t)
	return r, t, err
}

// refuse answers with an error of the path of requests.
func (m *Module) refuse(w http.ResponseWriter, r *http.Request, err error, overhead time.Duration) {
	e, ok := errors.AsType[*apiError](err)
	if !ok {
		e = unavailable("The request could not be served.", 0, err)
	}
	outcome := Refused
	if e.status >= http.StatusInternalServerError {
		outcome = Failed
	}
	m.observer.ObserveChat(outcome, e.body.Code, overhead)
	if e.status >= http.StatusInternalServerError && r.Context().Err() == nil { // else nobody waits for the answer
		m.log.WarnContext(r.Context(), "request not served", "status", e.status, "code", e.body.Code,
			"request_id", clipped(r.Header.Get("X-Request-Id")), "error", err)
	}
	e.write(w)
}
