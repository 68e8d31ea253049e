package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/lib/pq"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
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

// cliError is an error with its exit code and a hint on how to resolve it.
type cliError struct {
	code int
	err  error // nil: everything has been printed
	hint string
}

func (e *cliError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *cliError) Unwrap() error { return e.err }

// usage returns err as an error in the command line.
func usage(err error) error {
	return &cliError{code: codeUsage, err: err, hint: "see automationctl help"}
}

// usagef returns an error in the command line whose text says what to do.
func usagef(format string, args ...any) error {
	return &cliError{code: codeUsage, err: fmt.Errorf(format, args...)}
}

// errFindings means that a check found problems, which have been printed.
var errFindings = &cliError{code: codeFailed}

// classify returns an error's exit code and a hint on how to resolve it.
func classify(err error) (code int, hint string) {
	if f, ok := errors.AsType[*cliError](err); ok {
		return f.code, f.hint
	}
	switch {
	case errors.Is(err, sqldb.ErrOutcomeUnknown):
		return codeFailed, "the database's reply was lost: check whether the change was made before you repeat it"
	case sqldb.SQLState(err) == "42P01" || strings.Contains(err.Error(), "no such table"):
		return codeNotFound, "run automationctl migrate up first"
	case sqldb.SQLState(err) == "42501":
		return codeFailed, "run it as the owner of the tables; automationctl verify shows the privileges that the role lacks"
	case errors.Is(err, flags.ErrNotFound):
		return codeNotFound, "automationctl flags list shows all flags; SQL creates a new one: INSERT INTO feature_flags (feature_name) VALUES ('…')"
	case errors.Is(err, rollout.ErrNotFound):
		return codeNotFound, "automationctl rollout status shows all rollouts; automationctl rollout start begins one"
	case errors.Is(err, feedback.ErrNotFound):
		return codeNotFound, "automationctl feedback list shows the ids"
	case errors.Is(err, schema.ErrNoRole):
		return codeNotFound, "\\du in psql shows all roles"
	case errors.Is(err, rollout.ErrIllegal):
		return codeConflict, "automationctl rollout status shows the current state"
	case errors.Is(err, flags.ErrConflict):
		return codeConflict, "automationctl flags get shows the flag as it is now; check it before you repeat the change"
	case errors.Is(err, cleanup.ErrBusy):
		return codeConflict, "try again in a minute; --dry-run works in the meantime"
	case errors.Is(err, cleanup.ErrLeaseLost):
		return codeConflict, "finished batches stay removed; run it again to continue"
	case errors.Is(err, schema.ErrNewer):
		return codeConflict, ""
	case errors.Is(err, flags.ErrInvalid), errors.Is(err, rollout.ErrInvalid):
		return codeUsage, "nothing was changed"
	case errors.Is(err, pq.ErrSSLNotSupported):
		return codeUnavailable, "the server has no TLS: append ?sslmode=disable to DATABASE_URL (or sslmode=disable to host=…) if the network is trusted"
	case sqldb.SQLState(err) == "28000":
		return codeUnavailable, "the server rejects this role or database, or a connection without TLS: see pg_hba.conf, or append ?sslmode=require to DATABASE_URL"
	case errors.Is(err, sqldb.ErrUnavailable):
		return codeUnavailable, "check that the database is running and that DATABASE_URL is correct; nothing was changed"
	}
	return codeFailed, ""
}

// printError prints an error and returns its exit code.
func (a *app) printError(err error) int {
	if err == nil {
		return 0
	}
	code, hint := classify(err)
	switch text := err.Error(); {
	case text == "":
	case a.json:
		b, _ := json.Marshal(struct {
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
			Code  int    `json:"exit_code"`
		}{text, hint, code})
		a.printf("%s", b)
	default:
		a.printf("automationctl: %s", text)
		if hint != "" {
			a.printf("%s", hint)
		}
	}
	return code
}
