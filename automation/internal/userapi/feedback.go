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

// Feedback stores what users say. *feedback.Store implements it.
type Feedback interface {
	Add(ctx context.Context, flag, userID, key string, rating *int, message string) (feedback.Entry, error)
}

// maxFeedbackBody bounds a body, in bytes. It is enough for a message of 2,000
// characters that are all escaped.
const maxFeedbackBody = 32 << 10

// A user may give feedback feedbackBurst times in a row, and then once each
// feedbackInterval.
const (
	feedbackBurst    = 5
	feedbackInterval = time.Minute
)

type feedbackAnswer struct {
	ID        int64     `json:"id"`
	Rating    *int      `json:"rating"`
	Message   string    `json:"message"`
	CreatedAt time.Time `json:"created_at"`
}

// postFeedback stores feedback of a user who has the feature, or had it. It
// does so even while the flag is off, because then users have most to say.
func (a *api) postFeedback(c *httpapi.Call) error {
	if err := a.authenticate(c); err != nil {
		return err
	}
	if c.User.ReadOnly {
		return httpapi.Fail(outcome.Client, readOnlyKey)
	}
	var body struct {
		Rating  *int   `json:"rating"`
		Message string `json:"message"`
	}
	if err := problem.Decode(c.R, maxFeedbackBody, &body); err != nil {
		return err
	}
	if err := feedback.Check(body.Rating, body.Message); err != nil {
		return invalidFeedback(err)
	}
	if had, err := a.hasHadFeature(c); err != nil {
		return storeProblem(c.W, err)
	} else if !had {
		return httpapi.Fail(outcome.Off, notAvailable)
	}
	if !a.feedback.allow(c.User.ID) {
		httpapi.RetryAfter(c.W, feedbackInterval)
		return httpapi.Fail(outcome.Limit, problem.New(http.StatusTooManyRequests, "Thank you; wait a minute before you send more."))
	}
	// A client that repeats a request sends the same key. The user's id below keeps
	// the keys of different users apart.
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
	return problem.WriteJSON(c.W, http.StatusCreated, feedbackAnswer{e.ID, e.Rating, e.Message, e.CreatedAt.Time})
}

// hasHadFeature reports whether a user has the feature, or had it: then they
// have stored settings, or an open session.
func (a *api) hasHadFeature(c *httpapi.Call) (bool, error) {
	if a.Decide(c.User.ID).On {
		return true, nil
	}
	s, err := a.Settings.Get(c.R.Context(), c.User.ID)
	if err != nil {
		return false, err
	}
	if isStored := !s.CreatedAt.IsZero(); isStored {
		return true, nil
	}
	list, err := a.Sessions.List(c.R.Context(), c.User.ID)
	return len(list) > 0, err
}

// invalidFeedback is the answer to feedback with a field that is out of bounds.
func invalidFeedback(err error) error {
	var invalid *feedback.InvalidError
	if !errors.As(err, &invalid) {
		return err
	}
	return problem.Invalid(problem.FieldError{Field: invalid.Field, Message: invalid.Reason}).WithCause(err)
}
