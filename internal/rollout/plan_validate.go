package rollout

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

const (
	maxStages   = 100
	maxName     = 64
	maxMinUsers = 1000
	maxHold     = 366 * 24 * time.Hour
	maxPlan     = 1 << 20 // bytes of JSON; every evaluation reads it
)

// planError is one error of a plan. It is an [ErrInvalid].
type planError struct {
	Field   string // as in JSON: "stages[1].hold"
	Problem string
}

func (e *planError) Error() string { return e.Field + ": " + e.Problem }

// Unwrap returns ErrInvalid.
func (e *planError) Unwrap() error { return ErrInvalid }

// planErrors collects planErrors.
type planErrors []error

func (e *planErrors) add(field, format string, args ...any) {
	*e = append(*e, &planError{field, fmt.Sprintf(format, args...)})
}

// Validate returns all errors of the plan, joined. Each wraps ErrInvalid and names
// its field.
func (p Plan) Validate() error {
	p = p.withDefaults()
	var errs planErrors
	switch n := len(p.Stages); {
	case n == 0:
		errs.add("stages", "a plan needs at least one")
	case n > maxStages:
		errs.add("stages", "%d are too many, at most %d are allowed", n, maxStages)
	}
	names := map[string]bool{}
	var before flags.Percentage
	for i, s := range p.Stages {
		s.check(fmt.Sprintf("stages[%d]", i), before, names, &errs)
		names[s.Name], before = true, s.Percentage
	}
	switch p.OnBreach {
	case BreachRollback, BreachOff, BreachPause, BreachNotify:
	default:
		errs.add("on_breach", "%.40q is not one of rollback, off, pause, notify", p.OnBreach)
	}
	if p.Limit < 0 || p.Limit > 50*flags.Percent {
		errs.add("limit", "%v is not between 0.01 and 50 per cent", p.Limit)
	}
	if p.MinUsers < 0 || p.MinUsers > maxMinUsers {
		errs.add("min_users", "%d is not between 1 and %d", p.MinUsers, maxMinUsers)
	}
	for field, d := range map[string]time.Duration{"latency_p95": p.LatencyP95, "database_p95": p.DatabaseP95} {
		if d < 0 || d > time.Hour {
			errs.add(field, "%v is not between 0 and 1h", d)
		}
	}
	if err := (flags.Change{Notice: &p.Notice}).Validate(); err != nil {
		errs.add("notice", "%s", problem(err))
	}
	return errors.Join(errs...)
}

// check adds the errors of a stage to errs. The path leads to the stage in JSON;
// before is the percentage of the stage before, names are those of all before.
func (s Stage) check(path string, before flags.Percentage, names map[string]bool, errs *planErrors) {
	switch {
	case strings.TrimSpace(s.Name) == "":
		errs.add(path+".name", "a stage needs a name")
	case len(s.Name) > maxName || !utf8.ValidString(s.Name) || strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' }):
		errs.add(path+".name", "at most %d bytes of UTF-8 without control characters are allowed", maxName)
	case names[s.Name]:
		errs.add(path+".name", "an earlier stage has the name %q too", s.Name)
	}
	switch {
	case s.Percentage < 0 || s.Percentage > 100*flags.Percent:
		errs.add(path+".percentage", "%v is not between 0 and 100", s.Percentage)
	case s.Percentage < before:
		errs.add(path+".percentage", "%v is less than %v in the stage before: a rollout only adds users", s.Percentage, before)
	}
	if err := (flags.Change{EnabledUserIDs: &s.Users}).Validate(); err != nil {
		errs.add(path+".users", "%s", problem(err))
	}
	if s.Hold < 0 || s.Hold > maxHold {
		errs.add(path+".hold", "%v is not between 0 and %v", s.Hold, maxHold)
	}
	if s.MinSamples < 0 {
		errs.add(path+".min_samples", "%d is below 0", s.MinSamples)
	}
	if s.Hold == 0 && s.MinSamples == 0 && !s.Approval {
		errs.add(path, "a stage without hold, min_samples and approval would pass at once; set one of them")
	}
}

// problem returns the text of a flag's error without its field, which has another
// name in a plan.
func problem(err error) string {
	if e, ok := errors.AsType[*flags.FieldError](err); ok {
		return e.Problem
	}
	return err.Error()
}
