package userapi

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/httpapi"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// Feedback stores what users say; *feedback.Store does.
type Feedback interface {
	Add(ctx context.Context, flag, userID, key string, rating *int, message string) (feedback.Entry, error)
}

// maxFeedback bounds a body: 2,000 characters, each escaped.
const maxFeedback = 32 << 10

// How often a user may give feedback: feedbackAtOnce, and then once each
// feedbackInterval.
const (
	feedbackAtOnce   = 5
	feedbackInterval = time.Minute
)

type feedbackAnswer struct {
	ID        int64     `json:"id"`
	Rating    *int      `json:"rating"`
	Message   string    `json:"message"`
	CreatedAt time.Time `json:"created_at"`
}

// postFeedback takes what a user says who has the feature or had it. It answers
// also while the flag is off: that is when there is something to say.
func (a *api) postFeedback(c *httpapi.Call) error {
	if err := a.authenticate(c); err != nil {
		return err
	}
	if c.User.ReadOnly {
		return httpapi.Fail(outcome.Client, problem.New(http.StatusForbidden, "This API key may read only."))
	}
	var body struct {
		Rating  *int   `json:"rating"`
		Message string `json:"message"`
	}
	if err := problem.Decode(c.R, maxFeedback, &body); err != nil {
		return err
	}
	if err := feedback.Check(body.Rating, body.Message); err != nil {
		return invalidFeedback(err)
	}
	if had, err := a.hadFeature(c); err != nil {
		return storeProblem(c.W, err)
	} else if !had {
		return httpapi.Fail(outcome.Off, problem.New(http.StatusNotFound, "Automation is not available."))
	}
	if !a.feedback.allow(c.User.ID) {
		httpapi.RetryAfter(c.W, feedbackInterval)
		return httpapi.Fail(outcome.Limit, problem.New(http.StatusTooManyRequests, "Thank you; wait a minute before you send more."))
	}
	// A client that repeats a request sends its key again; keys are each user's own.
	key := c.R.Header.Get("Idempotency-Key")
	if key == "" || len(key) > 128 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		key = rand.Text()
	}
	e, err := a.Feedback.Add(c.R.Context(), a.FlagName, c.User.ID, c.User.ID+"\n"+key, body.Rating, body.Message)
	switch {
	case errors.Is(err, feedback.ErrInvalid):
		return invalidFeedback(err)
	case err != nil:
		return storeProblem(c.W, err)
	}
	if a.FeedbackCreated != nil {
		a.FeedbackCreated(c.R.Context(), e)
	}
	return problem.WriteJSON(c.W, http.StatusCreated, feedbackAnswer{e.ID, e.Rating, e.Message, e.CreatedAt.Time})
}

// hadFeature reports whether a user has the feature, or shows that they had it:
// by settings they stored, or a session that is open.
func (a *api) hadFeature(c *httpapi.Call) (bool, error) {
	if a.Decide(c.User.ID).On {
		return true, nil
	}
	s, err := a.Settings.Get(c.R.Context(), c.User.ID)
	if err != nil || !s.CreatedAt.IsZero() {
		return err == nil, err
	}
	list, err := a.Sessions.List(c.R.Context(), c.User.ID)
	return len(list) > 0, err
}

// invalidFeedback names the field that is out of bounds.
func invalidFeedback(err error) error {
	var invalid *feedback.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	return problem.Invalid(problem.FieldError{Field: invalid.Field, Message: invalid.Reason}).WithCause(err)
}
