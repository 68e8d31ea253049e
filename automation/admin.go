package automation

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// AdminPath is where [Module.Admin] is to be mounted.
const AdminPath = "/admin/automation"

// Authorize tells which operator makes a request; the name goes into the
// audit. An error is answered with 401.
type Authorize func(*http.Request) (actor string, err error)

// headerActor names the operator behind the shared token, for the audit.
const headerActor = "X-Automation-Actor"

// Admin is the operators' HTTP API, for [AdminPath] + "/". With nil, the
// bearer token AUTOMATION_ADMIN_TOKEN is asked for, and everything is 404 while
// there is none; the audit then shows "admin", or "admin:" and what the header
// X-Automation-Actor says. No GET changes anything.
func (m *Module) Admin(authorize Authorize) http.Handler {
	if authorize == nil {
		if m.cfg.AdminToken.Reveal() == "" {
			return problem.Routes(http.NewServeMux())
		}
		authorize = m.byToken
	}
	mux := http.NewServeMux()
	route := func(pattern string, serve func(w http.ResponseWriter, r *http.Request, actor string) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(method+" "+AdminPath+path, problem.Handler(m.log, func(w http.ResponseWriter, r *http.Request) error {
			actor, err := authorize(r)
			if err != nil {
				return challenge(w, problem.New(http.StatusUnauthorized, "Send the operators' token as a bearer token."))
			}
			return serve(w, r, actor)
		}))
	}
	m.adminFlags(route)
	m.adminRollouts(route)
	m.adminJobs(route)
	return m.observed(problem.Routes(mux))
}

type adminRoute func(pattern string, serve func(w http.ResponseWriter, r *http.Request, actor string) error)

// byToken compares digests, so that the time it takes says nothing, not even
// about the length.
func (m *Module) byToken(r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	want, got := sha256.Sum256([]byte(m.cfg.AdminToken.Reveal())), sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !ok {
		return "", errors.New("automation: not the operators' token")
	}
	name := r.Header.Get(headerActor)
	switch {
	case name == "":
		return "admin", nil
	case !validUser(name):
		return "", errors.New("automation: " + headerActor + " is no name")
	}
	return "admin:" + name, nil
}

func (m *Module) adminFlags(route adminRoute) {
	route("GET /flags", func(w http.ResponseWriter, r *http.Request, _ string) error {
		loaded, err := m.store.Load(r.Context(), nil)
		if err != nil {
			return flagProblem(w, err)
		}
		bad := map[string]string{}
		for _, row := range loaded.Bad {
			bad[row.Name] = row.Err.Error()
		}
		return problem.WriteJSON(w, http.StatusOK, map[string]any{"flags": append([]*flags.Flag{}, loaded.Flags...), "malformed": bad})
	})
	route("GET /flags/{name}", func(w http.ResponseWriter, r *http.Request, _ string) error {
		f, err := m.store.Get(r.Context(), r.PathValue("name"))
		if err != nil {
			return flagProblem(w, err)
		}
		return answerFlag(w, f)
	})
	route("PATCH /flags/{name}", m.patchFlag)
	route("GET /flags/{name}/users/{id}", func(w http.ResponseWriter, r *http.Request, _ string) error {
		e := m.flags.Explain(r.PathValue("name"), r.PathValue("id"))
		if e.Flag == "" {
			return flagProblem(w, flags.ErrNotFound)
		}
		return problem.WriteJSON(w, http.StatusOK, e)
	})
	route("GET /flags/{name}/events", func(w http.ResponseWriter, r *http.Request, _ string) error {
		limit, before, err := page(r.URL.Query())
		if err != nil {
			return err
		}
		events, err := m.store.Events(r.Context(), r.PathValue("name"), limit, before)
		if err != nil {
			return flagProblem(w, err)
		}
		return problem.WriteJSON(w, http.StatusOK, map[string]any{"events": append([]flags.Event{}, events...)})
	})
}

// maxFlag is the most bytes of a change: two lists of ids.
const maxFlag = 2*flags.MaxIDs*300 + 64<<10

func (m *Module) patchFlag(w http.ResponseWriter, r *http.Request, actor string) error {
	var body struct {
		Enabled         *bool             `json:"enabled"`
		EnabledUserIDs  *flags.IDs        `json:"enabled_user_ids"`
		DisabledUserIDs *flags.IDs        `json:"disabled_user_ids"`
		Percentage      *flags.Percentage `json:"rollout_percentage"`
		Seed            *string           `json:"seed"`
		Notice          *string           `json:"notice"`
	}
	if err := problem.Decode(r, maxFlag, &body); err != nil {
		return err
	}
	version, given, ok := matchVersion(r.Header.Values("If-Match"))
	if !ok || given && version == 0 {
		return flagChanged
	}
	f, err := m.store.Update(r.Context(), r.PathValue("name"), flags.Change(body), actor, version)
	if err != nil {
		return flagProblem(w, err)
	}
	m.flags.Trigger()
	return answerFlag(w, f)
}

func answerFlag(w http.ResponseWriter, f *flags.Flag) error {
	w.Header().Set("ETag", etag(f.Version))
	return problem.WriteJSON(w, http.StatusOK, f)
}

var flagChanged = problem.New(http.StatusPreconditionFailed, "The flag has changed meanwhile: get it again, and send its ETag as If-Match.")

// flagProblem tells an operator what a store's error means.
func flagProblem(w http.ResponseWriter, err error) error {
	switch {
	case errors.Is(err, flags.ErrNotFound):
		return problem.New(http.StatusNotFound, "There is no flag of that name.")
	case errors.Is(err, flags.ErrConflict):
		return flagChanged
	case errors.Is(err, flags.ErrInvalid):
		var fields []problem.FieldError
		for _, e := range fieldErrors(err) {
			fields = append(fields, problem.FieldError{Field: e.Field, Message: e.Problem})
		}
		return problem.Invalid(fields...).Because(err)
	case errors.Is(err, flags.ErrOutcomeUnknown):
		w.Header().Set("Retry-After", "1")
		return problem.New(http.StatusServiceUnavailable, "It is not known whether the change was made: get the flag to find out.").Because(err)
	case errors.Is(err, flags.ErrUnavailable):
		w.Header().Set("Retry-After", "5")
		return problem.New(http.StatusServiceUnavailable, "The database cannot be reached; nothing was changed.").Because(err)
	}
	if row, ok := errors.AsType[*flags.RowError](err); ok {
		return problem.New(http.StatusConflict, "The flag's row is malformed: "+row.Err.Error()+". Mend it with SQL.").Because(err)
	}
	return err
}

// fieldErrors finds all of them in what may be joined errors.
func fieldErrors(err error) []*flags.FieldError {
	if e, ok := err.(*flags.FieldError); ok { //nolint:errorlint // the tree is walked by hand
		return []*flags.FieldError{e}
	}
	var all []*flags.FieldError
	switch e := err.(type) { //nolint:errorlint // the tree is walked by hand
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			all = append(all, fieldErrors(inner)...)
		}
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			all = fieldErrors(inner)
		}
	}
	return all
}

// page reads ?limit= (1 to 1,000; 100) and ?before=, an id.
func page(q url.Values) (limit int, before int64, err error) {
	limit = 100
	var wrong []problem.FieldError
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > 1000 {
			wrong = append(wrong, problem.FieldError{Field: "limit", Message: "must be from 1 to 1000"})
		}
	}
	if s := q.Get("before"); s != "" {
		if before, err = strconv.ParseInt(s, 10, 64); err != nil || before < 1 {
			wrong = append(wrong, problem.FieldError{Field: "before", Message: "must be the id of an event"})
		}
	}
	if len(wrong) > 0 {
		return 0, 0, problem.Invalid(wrong...)
	}
	return limit, before, nil
}
