package adminapi

import (
	"errors"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

func (a *api) listFlags(c *httpapi.Call, _ string) error {
	loaded, err := a.Store.Load(c.R.Context(), nil)
	if err != nil {
		return flagProblem(c.W, err)
	}
	malformed := map[string]string{}
	for _, row := range loaded.Bad {
		malformed[row.Name] = row.Err.Error()
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"flags": append([]*flags.Flag{}, loaded.Flags...), "malformed": malformed})
}

func (a *api) getFlag(c *httpapi.Call, _ string) error {
	f, err := a.Store.Get(c.R.Context(), c.R.PathValue("name"))
	if err != nil {
		return flagProblem(c.W, err)
	}
	return answerFlag(c.W, f)
}

func (a *api) explainFlag(c *httpapi.Call, _ string) error {
	e := a.Explain(c.R.PathValue("name"), c.R.PathValue("id"))
	if e.Flag == "" {
		return flagProblem(c.W, flags.ErrNotFound)
	}
	return problem.WriteJSON(c.W, http.StatusOK, e)
}

func (a *api) listFlagEvents(c *httpapi.Call, _ string) error {
	limit, before, err := parsePage(c.R.URL.Query())
	if err != nil {
		return err
	}
	events, err := a.Audit.Events(c.R.Context(), c.R.PathValue("name"), limit, before)
	if err != nil {
		return flagProblem(c.W, err)
	}
	return problem.WriteJSON(c.W, http.StatusOK, map[string]any{"events": append([]flagsql.Event{}, events...)})
}

// maxFlagBody bounds the body of a change, in bytes: it may hold two full lists
// of ids.
const maxFlagBody = 2*flagsql.MaxIDs*300 + 64<<10

func (a *api) patchFlag(c *httpapi.Call, actor string) error {
	var body struct {
		Enabled         *bool             `json:"enabled"`
		EnabledUserIDs  *flags.IDs        `json:"enabled_user_ids"`
		DisabledUserIDs *flags.IDs        `json:"disabled_user_ids"`
		Percentage      *flags.Percentage `json:"rollout_percentage"`
		Seed            *string           `json:"seed"`
		Notice          *string           `json:"notice"`
	}
	if err := problem.Decode(c.R, maxFlagBody, &body); err != nil {
		return err
	}
	f, err := a.updateIf(c, flags.Change(body), actor)
	if err != nil {
		return flagProblem(c.W, err)
	}
	a.Refresh()
	effect, err := a.Rollouts.HandEditEffect(c.R.Context(), f.Name)
	if err != nil { // no reason to answer with an error: the flag has been changed
		effect = "The effect on its rollout cannot be read at the moment: look at the rollout."
	}
	c.W.Header().Set("ETag", httpapi.ETag(f.Version))
	return problem.WriteJSON(c.W, http.StatusOK, struct {
		*flags.Flag
		RolloutEffect string `json:"rollout_effect,omitempty"`
	}{f, effect})
}

// updateIf changes a flag if the request's preconditions hold.
func (a *api) updateIf(c *httpapi.Call, change flags.Change, actor string) (*flags.Flag, error) {
	p, name := httpapi.ReadPreconditions(c.R), c.R.PathValue("name")
	version, exact := p.Version()
	switch {
	case p.None():
		version = 0 // Update replaces any version
	case !exact:
		current, err := a.Store.Get(c.R.Context(), name)
		if err != nil {
			return nil, err
		}
		if !p.Hold(current.Version, true) {
			return nil, flags.ErrConflict
		}
		version = current.Version
	case version == 0: // versions begin at 1
		return nil, flags.ErrConflict
	}
	return a.Store.Update(c.R.Context(), name, change, actor, version)
}

func answerFlag(w http.ResponseWriter, f *flags.Flag) error {
	w.Header().Set("ETag", httpapi.ETag(f.Version))
	return problem.WriteJSON(w, http.StatusOK, f)
}

var flagChanged = problem.New(http.StatusPreconditionFailed, "The flag has changed meanwhile: get it again, and send its ETag as If-Match.")

// flagProblem converts an error of the flags' store into the answer.
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
		return problem.Invalid(fields...).WithCause(err)
	}
	if row, ok := errors.AsType[*flags.RowError](err); ok {
		return malformedRow("flag", row.Err, err)
	}
	return databaseProblem(w, err)
}

// malformedRow is the answer for a row that violates the table's constraints.
// Only SQL can fix it.
func malformedRow(owner string, reason, err error) error {
	return problem.New(http.StatusConflict, "The "+owner+"'s row is malformed: "+reason.Error()+". Fix it with SQL.").WithCause(err)
}

// fieldErrors returns all field errors that err wraps.
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
