package automation

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// BasePath is where [Module.API] is to be mounted.
const BasePath = "/api/v1/automation"

// API is the users' HTTP API, for [BasePath] + "/". A user reaches their own
// data alone. While the feature is off for them, all but the status is 404.
// Errors are application/problem+json; the document that [Module.OpenAPI]
// serves has all of them.
func (m *Module) API() http.Handler {
	mux := http.NewServeMux()
	for _, r := range m.routes() {
		mux.Handle(r.method+" "+BasePath+r.path, problem.Handler(m.log, r.serve))
	}
	// The mux's own 404 and 405 are plain text.
	return m.observed(problem.Routes(mux))
}

type route struct {
	method, path string // the path below BasePath
	serve        func(http.ResponseWriter, *http.Request) error
}

func (m *Module) routes() []route {
	reads := func(serve memberFunc) func(http.ResponseWriter, *http.Request) error { return m.member(false, serve) }
	writes := func(serve memberFunc) func(http.ResponseWriter, *http.Request) error { return m.member(true, serve) }
	return []route{
		{"GET", "/settings", reads(m.getSettings)},
		{"PUT", "/settings", writes(m.putSettings)},
		{"POST", "/settings", writes(m.putSettings)},
		{"PATCH", "/settings", writes(m.patchSettings)},
		{"DELETE", "/settings", writes(m.deleteSettings)},
		{"GET", "/sessions", reads(m.getSessions)},
		{"DELETE", "/sessions/{id}", writes(m.deleteSession)},
		{"GET", "/status", m.getStatus},
	}
}

// memberFunc serves those who have the feature.
type memberFunc func(http.ResponseWriter, *http.Request, Identity) error

// member lets those in who have the feature, and writers who may write.
func (m *Module) member(writes bool, serve memberFunc) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		off := problem.New(http.StatusNotFound, "Automation is not available.")
		if f := m.flags.Flag(FlagName); !m.cfg.FeatureEnabled || f == nil || !f.Enabled {
			return off
		}
		who, err := m.who(r)
		if err != nil {
			return challenge(w, err)
		}
		if !m.decider.Decide(FlagName, who.UserID).On {
			return off
		}
		if writes && who.ReadOnly {
			return problem.New(http.StatusForbidden, "This API key may read only.")
		}
		if writes && !m.writes.allow(who.UserID) {
			w.Header().Set("Retry-After", strconv.Itoa(int(1/writesPerSecond)))
			return problem.New(http.StatusTooManyRequests, "Too many changes; wait a little.")
		}
		begun := m.now()
		err = serve(w, r, who)
		if r.Context().Err() == nil {
			m.testify(who.UserID, m.now().Sub(begun), err)
		}
		return err
	}
}

// challenge adds the headers that belong to who's problems.
func challenge(w http.ResponseWriter, err error) error {
	p, _ := errors.AsType[*problem.Problem](err)
	switch {
	case p == nil:
	case p.Status == http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", challengeBearer)
	case p.Status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(seconds(retrySoon)))
	}
	return err
}

const challengeBearer = `Bearer realm="automation"`

type settingsAnswer struct {
	UserID          string     `json:"user_id"`
	IsEnabled       bool       `json:"is_enabled"`
	SessionDuration int64      `json:"session_duration"` // seconds
	CreatedAt       *time.Time `json:"created_at"`
	UpdatedAt       *time.Time `json:"updated_at"`
}

func (m *Module) getSettings(w http.ResponseWriter, r *http.Request, who Identity) error {
	s, err := m.stored.Get(r.Context(), who.UserID)
	if err != nil {
		return storeProblem(w, err)
	}
	if etag := etagOf(s); etagListed(r.Header.Values("If-None-Match"), etag) {
		w.Header().Set("ETag", etag)
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return answerSettings(w, s)
}

// A write decodes before it looks at the database, so that a bad request costs
// nothing.
const maxSettings = 4 << 10

func (m *Module) putSettings(w http.ResponseWriter, r *http.Request, who Identity) error {
	var body struct {
		IsEnabled       bool  `json:"is_enabled"`
		SessionDuration int64 `json:"session_duration"`
	}
	if err := problem.Decode(r, maxSettings, &body); err != nil {
		return err
	}
	d, err := m.duration(body.SessionDuration)
	if err != nil {
		return err
	}
	return m.write(w, r, who, func(c settings.Condition) (settings.Settings, error) {
		return m.settings.Put(r.Context(), who.UserID, settings.Values{IsEnabled: body.IsEnabled, SessionDuration: d}, c)
	})
}

func (m *Module) patchSettings(w http.ResponseWriter, r *http.Request, who Identity) error {
	var body struct {
		IsEnabled       *bool  `json:"is_enabled"`
		SessionDuration *int64 `json:"session_duration"`
	}
	if err := problem.Decode(r, maxSettings, &body); err != nil {
		return err
	}
	change := settings.Change{IsEnabled: body.IsEnabled}
	if body.SessionDuration != nil {
		d, err := m.duration(*body.SessionDuration)
		if err != nil {
			return err
		}
		change.SessionDuration = &d
	}
	return m.write(w, r, who, func(c settings.Condition) (settings.Settings, error) {
		return m.settings.Patch(r.Context(), who.UserID, change, c)
	})
}

func (m *Module) deleteSettings(w http.ResponseWriter, r *http.Request, who Identity) error {
	return m.write(w, r, who, func(c settings.Condition) (settings.Settings, error) {
		return m.settings.Delete(r.Context(), who.UserID, c)
	})
}

// duration checks seconds before they become a Duration, which could overflow.
func (m *Module) duration(seconds int64) (time.Duration, error) {
	least, most := int64(m.cfg.MinSessionDuration.Seconds()), int64(m.cfg.MaxSessionDuration.Seconds())
	if seconds < least || seconds > most {
		return 0, problem.Invalid(problem.FieldError{Field: "session_duration", Message: fmt.Sprintf("must be from %d to %d seconds", least, most)})
	}
	return time.Duration(seconds) * time.Second, nil
}

// write carries out a change under the request's condition.
func (m *Module) write(w http.ResponseWriter, r *http.Request, who Identity, change func(settings.Condition) (settings.Settings, error)) error {
	cond, err := ifMatch(r.Header.Values("If-Match"))
	if err != nil {
		return err
	}
	told := m.settingsTold(r.Context(), who)
	s, err := change(cond)
	if err != nil {
		return storeProblem(w, err)
	}
	told(s)
	m.log.InfoContext(r.Context(), "settings changed", "method", r.Method, "is_enabled", s.IsEnabled,
		"session_duration", s.SessionDuration, "request_id", clipped(r.Header.Get("X-Request-Id")))
	return answerSettings(w, s)
}

func answerSettings(w http.ResponseWriter, s settings.Settings) error {
	a := settingsAnswer{UserID: s.UserID, IsEnabled: s.IsEnabled, SessionDuration: int64(s.SessionDuration.Seconds())}
	if !s.CreatedAt.IsZero() {
		a.CreatedAt, a.UpdatedAt = &s.CreatedAt, &s.UpdatedAt
	}
	w.Header().Set("ETag", etagOf(s))
	return problem.WriteJSON(w, http.StatusOK, a)
}

func etagOf(s settings.Settings) string { return etag(s.Version) }

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// etags takes a header's list of entity tags apart.
func etags(values []string) []string {
	var list []string
	for _, v := range values {
		for tag := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(tag))
		}
	}
	return list
}

func etagListed(values []string, etag string) bool {
	for _, tag := range etags(values) {
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}

// ifMatch reads the condition of a write.
func ifMatch(values []string) (settings.Condition, error) {
	version, given, ok := matchVersion(values)
	switch {
	case !ok:
		return settings.Always, preconditionFailed
	case !given:
		return settings.Always, nil
	}
	return settings.IfVersion(version), nil
}

// matchVersion reads an If-Match: "*" or nothing is any version, which is not
// given. One version is enough: nobody has reason to send more.
func matchVersion(values []string) (version int64, given, ok bool) {
	tags := etags(values)
	if len(tags) == 0 || len(tags) == 1 && tags[0] == "*" {
		return 0, false, true
	}
	if len(tags) > 1 {
		return 0, true, false
	}
	n, err := strconv.ParseInt(strings.Trim(tags[0], `"`), 10, 64)
	return n, true, err == nil && n >= 0 && tags[0] == etag(n)
}

var preconditionFailed = problem.New(http.StatusPreconditionFailed, "The settings have changed meanwhile: get them again, and send their ETag as If-Match.")

// storeProblem tells a client what a store's error means to them.
func storeProblem(w http.ResponseWriter, err error) error {
	var invalid *settings.InvalidError
	switch {
	case errors.Is(err, settings.ErrConflict):
		return preconditionFailed
	case errors.As(err, &invalid):
		return problem.Invalid(problem.FieldError{Field: invalid.Field, Message: invalid.Reason}).Because(err)
	case errors.Is(err, settings.ErrOutcomeUnknown):
		w.Header().Set("Retry-After", "1")
		return problem.New(http.StatusServiceUnavailable, "It is not known whether the change was made: get the settings, or send it again.").Because(err)
	}
	w.Header().Set("Retry-After", strconv.Itoa(seconds(retrySoon)))
	return problem.New(http.StatusServiceUnavailable, "The database cannot be reached; nothing was changed.").Because(err)
}

type sessionAnswer struct {
	ID       string    `json:"id"`
	Model    string    `json:"model"` // its name, or its id where it has none any more
	ModelID  string    `json:"model_id"`
	State    string    `json:"state"` // idle, in_use, ending
	OpenedAt time.Time `json:"opened_at"`
	EndsAt   time.Time `json:"ends_at"`
}

func (m *Module) sessionAnswer(s session.Info) sessionAnswer {
	a := sessionAnswer{ID: s.SessionID, Model: s.ModelID, ModelID: s.ModelID, State: "idle", OpenedAt: s.OpenedAt, EndsAt: s.EndsAt}
	if model, err := m.catalog.Resolve(s.ModelID, ""); err == nil {
		a.Model = model.Name
	}
	switch {
	case s.Ending:
		a.State = "ending"
	case s.InUse:
		a.State = "in_use"
	}
	return a
}

func (m *Module) getSessions(w http.ResponseWriter, r *http.Request, who Identity) error {
	list, err := m.sessions.List(r.Context(), who.UserID)
	if err != nil {
		return storeProblem(w, err)
	}
	answers := make([]sessionAnswer, len(list))
	for i, s := range list {
		answers[i] = m.sessionAnswer(s)
	}
	return problem.WriteJSON(w, http.StatusOK, map[string]any{"sessions": answers})
}

func (m *Module) deleteSession(w http.ResponseWriter, r *http.Request, who Identity) error {
	id := storedID(r.PathValue("id"))
	s, err := m.sessions.End(r.Context(), who.UserID, id)
	if errors.Is(err, session.ErrUnmanaged) {
		return problem.New(http.StatusNotFound, "You have no open session of that id.")
	}
	if err != nil {
		return storeProblem(w, err)
	}
	return problem.WriteJSON(w, http.StatusOK, m.sessionAnswer(s))
}

type statusAnswer struct {
	Enabled bool `json:"enabled"` // whether a chat request gets a session by itself
	// Reason is why not: off (for everybody), not_in_rollout, opted_out; or on.
	Reason string `json:"reason"`
	Notice string `json:"notice"` // the operators' word, or empty
}

// getStatus answers also while the flag is off.
func (m *Module) getStatus(w http.ResponseWriter, r *http.Request) error {
	who, err := m.who(r)
	if err != nil {
		return challenge(w, err)
	}
	a := statusAnswer{Reason: "off"}
	f := m.flags.Flag(FlagName)
	if f != nil {
		a.Notice = f.Notice
	}
	switch {
	case !m.cfg.FeatureEnabled || f == nil || !f.Enabled:
	case !m.decider.Decide(FlagName, who.UserID).On:
		a.Reason = "not_in_rollout"
	default:
		s, err := m.settings.Get(r.Context(), who.UserID)
		if err != nil {
			return storeProblem(w, err)
		}
		a.Enabled, a.Reason = s.IsEnabled, "on"
		if !s.IsEnabled {
			a.Reason = "opted_out"
		}
	}
	return problem.WriteJSON(w, http.StatusOK, a)
}
