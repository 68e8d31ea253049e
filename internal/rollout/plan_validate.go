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

func (f *planErrors) add(field, format string, args ...any) {
	*f = append(*f, &planError{field, fmt.Sprintf(format, args...)})
}

// Validate returns every error of the plan, each an ErrInvalid that names its field,
// joined.
func (p Plan) Validate() error {
	p = p.withDefaults()
	var f planErrors
	switch n := len(p.Stages); {
	case n == 0:
		f.add("stages", "a plan needs at least one")
	case n > maxStages:
		f.add("stages", "%d are too many, at most %d are allowed", n, maxStages)
	}
	names := map[string]bool{}
	var last flags.Percentage
	for i, s := range p.Stages {
		s.check(fmt.Sprintf("stages[%d]", i), last, names, &f)
		names[s.Name], last = true, s.Percentage
	}
	switch p.OnBreach {
	case BreachRollback, BreachOff, BreachPause, BreachNotify:
	default:
		f.add("on_breach", "%.40q is none of rollback, off, pause, notify", p.OnBreach)
	}
	if p.Limit < 0 || p.Limit > 50*flags.Percent {
		f.add("limit", "%v is not within 0.01 and 50 per cent", p.Limit)
	}
	if p.MinUsers < 0 || p.MinUsers > maxMinUsers {
		f.add("min_users", "%d is not within 1 and %d", p.MinUsers, maxMinUsers)
	}
	for field, d := range map[string]time.Duration{"latency_p95": p.LatencyP95, "database_p95": p.DatabaseP95} {
		if d < 0 || d > time.Hour {
			f.add(field, "%v is not within 0 and 1h", d)
		}
	}
	if err := (flags.Change{Notice: &p.Notice}).Validate(); err != nil {
		f.add("notice", "%s", problem(err))
	}
	return errors.Join(f...)
}

func (s Stage) check(at string, last flags.Percentage, names map[string]bool, f *planErrors) {
	switch {
	case strings.TrimSpace(s.Name) == "":
		f.add(at+".name", "a stage needs a name")
	case len(s.Name) > maxName || !utf8.ValidString(s.Name) || strings.ContainsFunc(s.Name, func(r rune) bool { return r < ' ' }):
		f.add(at+".name", "at most %d bytes of UTF-8 without control characters are allowed", maxName)
	case names[s.Name]:
		f.add(at+".name", "an earlier stage is called %q as well", s.Name)
	}
	switch {
	case s.Percentage < 0 || s.Percentage > 100*flags.Percent:
		f.add(at+".percentage", "%v is not within 0 and 100", s.Percentage)
	case s.Percentage < last:
		f.add(at+".percentage", "%v is less than the stage before has, %v: a rollout only adds users", s.Percentage, last)
	}
	if err := (flags.Change{EnabledUserIDs: &s.Users}).Validate(); err != nil {
		f.add(at+".users", "%s", problem(err))
	}
	if s.Hold < 0 || s.Hold > maxHold {
		f.add(at+".hold", "%v is not within 0 and %v", s.Hold, maxHold)
	}
	if s.MinSamples < 0 {
		f.add(at+".min_samples", "%d is below 0", s.MinSamples)
	}
	if s.Hold == 0 && s.MinSamples == 0 && !s.Approval {
		f.add(at, "a stage needs a hold, min_samples or approval: it would pass unwatched")
	}
}

// problem returns a flag's error without its field, which has another name here.
func problem(err error) string {
	if e, ok := errors.AsType[*flags.FieldError](err); ok {
		return e.Problem
	}
	return err.Error()
}
