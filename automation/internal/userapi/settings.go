package userapi

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
	"github.com/MorpheusAIs/gateway-automation/internal/text"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

type settingsAnswer struct {
	UserID          string     `json:"user_id"`
	IsEnabled       bool       `json:"is_enabled"`
	SessionDuration int64      `json:"session_duration"` // seconds
	CreatedAt       *time.Time `json:"created_at"`
	UpdatedAt       *time.Time `json:"updated_at"`
}

func (a *api) getSettings(c *httpapi.Call) error {
	s, err := a.Settings.Get(c.R.Context(), c.User.ID)
	if err != nil {
		return storeProblem(c.W, err)
	}
	if etag := httpapi.ETag(s.Version); httpapi.NotModified(c.R, etag) {
		c.W.Header().Set("ETag", etag)
		c.W.WriteHeader(http.StatusNotModified)
		return nil
	}
	return answerSettings(c.W, s)
}

// wholeNumber accepts every JSON notation of a whole number: 600.0 and 6e2 are
// 600.
type wholeNumber int64

// UnmarshalJSON implements json.Unmarshaler.
func (n *wholeNumber) UnmarshalJSON(b []byte) error {
	if i, err := strconv.ParseInt(string(b), 10, 64); err == nil {
		*n = wholeNumber(i)
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return errors.New("must be a whole number")
	}
	*n = wholeNumber(f)
	return nil
}

// maxSettingsBody bounds a body, in bytes.
const maxSettingsBody = 4 << 10

func (a *api) putSettings(c *httpapi.Call) error {
	var body struct {
		IsEnabled       bool        `json:"is_enabled"`
		SessionDuration wholeNumber `json:"session_duration"`
	}
	if err := problem.Decode(c.R, maxSettingsBody, &body); err != nil {
		return err
	}
	d, err := a.duration(body.SessionDuration)
	if err != nil {
		return err
	}
	return a.change(c, func(cond settings.Condition) (settings.Settings, error) {
		return a.Settings.Put(c.R.Context(), c.User.ID, settings.Values{IsEnabled: body.IsEnabled, SessionDuration: d}, cond)
	})
}

func (a *api) patchSettings(c *httpapi.Call) error {
	var body struct {
		IsEnabled       *bool        `json:"is_enabled"`
		SessionDuration *wholeNumber `json:"session_duration"`
	}
	if err := problem.Decode(c.R, maxSettingsBody, &body); err != nil {
		return err
	}
	change := settings.Change{IsEnabled: body.IsEnabled}
	if body.SessionDuration != nil {
		d, err := a.duration(*body.SessionDuration)
		if err != nil {
			return err
		}
		change.SessionDuration = &d
	}
	return a.change(c, func(cond settings.Condition) (settings.Settings, error) {
		return a.Settings.Patch(c.R.Context(), c.User.ID, change, cond)
	})
}

func (a *api) deleteSettings(c *httpapi.Call) error {
	return a.change(c, func(cond settings.Condition) (settings.Settings, error) {
		return a.Settings.Delete(c.R.Context(), c.User.ID, cond)
	})
}

// duration checks seconds before they become a Duration, which could overflow.
func (a *api) duration(n wholeNumber) (time.Duration, error) {
	seconds := int64(n)
	minSeconds, maxSeconds := int64(a.MinDuration.Seconds()), int64(a.MaxDuration.Seconds())
	if seconds < minSeconds || seconds > maxSeconds {
		return 0, problem.Invalid(problem.FieldError{Field: "session_duration", Message: fmt.Sprintf("must be from %d to %d seconds", minSeconds, maxSeconds)})
	}
	return time.Duration(seconds) * time.Second, nil
}

// change applies a change if the request's preconditions hold, and answers with
// the settings that result.
func (a *api) change(c *httpapi.Call, apply func(settings.Condition) (settings.Settings, error)) error {
	var before settings.Settings
	isKnown := false
	if a.Changed != nil {
		var err error
		before, err = a.Settings.GetCached(c.R.Context(), c.User.ID)
		isKnown = err == nil
	}
	after, err := a.applyIf(c, apply)
	if err != nil {
		return storeProblem(c.W, err)
	}
	if isKnown {
		a.Changed(before, after)
	}
	a.Logger.InfoContext(c.R.Context(), "settings changed", "method", c.R.Method, "is_enabled", after.IsEnabled,
		"session_duration", after.SessionDuration, "request_id", text.Truncate(c.R.Header.Get("X-Request-Id"), 128))
	return answerSettings(c.W, after)
}

func answerSettings(w http.ResponseWriter, s settings.Settings) error {
	a := settingsAnswer{UserID: s.UserID, IsEnabled: s.IsEnabled, SessionDuration: int64(s.SessionDuration.Seconds())}
	if !s.CreatedAt.IsZero() {
		a.CreatedAt, a.UpdatedAt = &s.CreatedAt, &s.UpdatedAt
	}
	w.Header().Set("ETag", httpapi.ETag(s.Version))
	return problem.WriteJSON(w, http.StatusOK, a)
}

// maxAttempts is how often a write whose precondition lists several versions is
// tried while other requests change the settings.
const maxAttempts = 3

// applyIf applies a change if the request's preconditions hold.
func (a *api) applyIf(c *httpapi.Call, apply func(settings.Condition) (settings.Settings, error)) (settings.Settings, error) {
	p := httpapi.ReadPreconditions(c.R)
	if p.None() {
		return apply(settings.Always)
	}
	if version, ok := p.Version(); ok {
		return apply(settings.IfVersion(version))
	}
	// The store can compare only one version: the one that is checked here.
	for range maxAttempts {
		current, err := a.Settings.Get(c.R.Context(), c.User.ID)
		if err != nil {
			return settings.Settings{}, err
		}
		if isStored := current.Version > 0; !p.Hold(current.Version, isStored) {
			return settings.Settings{}, settings.ErrConflict
		}
		after, err := apply(settings.IfVersion(current.Version))
		if !errors.Is(err, settings.ErrConflict) {
			return after, err
		}
	}
	return settings.Settings{}, settings.ErrConflict
}

var preconditionFailed = problem.New(http.StatusPreconditionFailed, "The settings have changed meanwhile: get them again, and send their ETag as If-Match.")

// storeProblem converts an error of a store into the answer to the client.
func storeProblem(w http.ResponseWriter, err error) error {
	var invalid *settings.InvalidError
	switch {
	case errors.Is(err, settings.ErrConflict):
		return preconditionFailed
	case errors.As(err, &invalid):
		return problem.Invalid(problem.FieldError{Field: invalid.Field, Message: invalid.Reason}).WithCause(err)
	case errors.Is(err, settings.ErrOutcomeUnknown):
		httpapi.RetryAfter(w, time.Second)
		return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
			"It is not known whether the change was made: get the settings, or send it again.").WithCause(err))
	}
	httpapi.RetryAfter(w, httpapi.RetrySoon)
	return httpapi.Fail(outcome.Database, problem.New(http.StatusServiceUnavailable,
		"The database cannot be reached; nothing was changed.").WithCause(err))
}
