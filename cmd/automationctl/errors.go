package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// The exit codes.
const (
	codeFailed = iota + 1
	codeUsage
	codeNotFound
	codeConflict
	codeUnavailable
)

// fault is an error that has its exit code, and what to do about it.
type fault struct {
	code int
	err  error // nil: all has been said
	hint string
}

func (f *fault) Error() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

func (f *fault) Unwrap() error { return f.err }

// usage says that the command line makes no sense.
func usage(err error) error {
	return &fault{code: codeUsage, err: err, hint: "automationctl help tells more"}
}

// refuse is a usage that says itself what to do.
func refuse(format string, args ...any) error {
	return &fault{code: codeUsage, err: fmt.Errorf(format, args...)}
}

// found says that a check found what the answer lists.
func found() error { return &fault{code: codeFailed} }

// diagnose tells an error's exit code and what to do about it.
func diagnose(err error) (code int, hint string) {
	if f, ok := errors.AsType[*fault](err); ok {
		return f.code, f.hint
	}
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		return codeFailed, "the database's answer was lost: look whether it was done before you repeat it"
	case sqldb.SQLState(err) == "42P01" || strings.Contains(err.Error(), "no such table"):
		return codeNotFound, "run automationctl migrate up first"
	case sqldb.SQLState(err) == "42501":
		return codeFailed, "run it as the owner of the tables, or see what the role lacks: automationctl verify"
	case errors.Is(err, flags.ErrNotFound):
		return codeNotFound, "automationctl flags list shows those there are; a new one is made in SQL: INSERT INTO feature_flags (feature_name) VALUES ('…')"
	case errors.Is(err, rollout.ErrNotFound):
		return codeNotFound, "automationctl rollout status shows those there are; automationctl rollout start begins one"
	case errors.Is(err, schema.ErrNoRole):
		return codeNotFound, "\\du in psql shows those there are"
	case errors.Is(err, rollout.ErrIllegal):
		return codeConflict, "automationctl rollout status shows how it stands"
	case errors.Is(err, flags.ErrConflict): // rollout.ErrConflict is the same
		return codeConflict, "automationctl flags get shows the flag as it is now; look at it, then decide anew"
	case errors.Is(err, cleanup.ErrBusy):
		return codeConflict, "try again in a minute; --dry-run works meanwhile"
	case errors.Is(err, cleanup.ErrLeaseLost):
		return codeConflict, "what was removed stays removed; run it again to go on"
	case errors.Is(err, schema.ErrNewer):
		return codeConflict, ""
	case errors.Is(err, flags.ErrInvalid), errors.Is(err, rollout.ErrInvalid):
		return codeUsage, "nothing was changed"
	case errors.Is(err, sqldb.ErrUnavailable):
		return codeUnavailable, "check that the database runs and that DATABASE_URL leads to it; nothing was changed"
	}
	return codeFailed, ""
}

// complain shows an error and returns the exit code.
func (a *app) complain(err error) int {
	if err == nil {
		return 0
	}
	code, hint := diagnose(err)
	switch text := err.Error(); {
	case text == "":
	case a.json:
		b, _ := json.Marshal(struct {
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
			Code  int    `json:"exit_code"`
		}{text, hint, code})
		a.say("%s", b)
	default:
		a.say("automationctl: %s", text)
		if hint != "" {
			a.say("%s", hint)
		}
	}
	return code
}
