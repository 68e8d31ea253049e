package automation

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/felixge/httpsnoop"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/problem"
)

// evidence is what a rollout is to know of one request: on which side it was,
// and how it ended. It travels in the request's context, from where the
// request comes in to where its user is known.
type evidence struct {
	arm    rollout.Arm
	user   string // empty: on neither side
	failed bool   // though its status was good
}

type evidenceKey struct{}

// witness notes whose request it is. Of those who have the feature only the
// requests count on which it acts, see clearWitness.
func (m *Module) witness(ctx context.Context, user string, d flags.Decision) {
	e, _ := ctx.Value(evidenceKey{}).(*evidence)
	if e == nil {
		return
	}
	if arm, ok := rollout.ArmOf(d); ok {
		e.arm, e.user = arm, user
	}
}

// clearWitness takes the request of a user who has the feature out of the
// evidence: the feature did not act on it.
func clearWitness(ctx context.Context) {
	if e, _ := ctx.Value(evidenceKey{}).(*evidence); e != nil && e.arm == rollout.Exposed {
		e.user = ""
	}
}

// failWitness notes that an answer with a good status went wrong.
func failWitness(ctx context.Context) {
	if e, _ := ctx.Value(evidenceKey{}).(*evidence); e != nil {
		e.failed = true
	}
}

// evident hands the outcomes of h's requests to the rollout. Of an answer that
// may be a stream, the time to its first byte is its latency.
func (m *Module) evident(h http.Handler) http.Handler {
	if !m.cfg.FeatureEnabled {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &evidence{}
		begun := m.now()
		var first time.Time
		status := 0
		answers := func(code int) {
			if status == 0 && code >= http.StatusOK {
				status, first = code, m.now()
			}
		}
		w = httpsnoop.Wrap(w, httpsnoop.Hooks{
			WriteHeader: func(next httpsnoop.WriteHeaderFunc) httpsnoop.WriteHeaderFunc {
				return func(code int) { answers(code); next(code) }
			},
			Write: func(next httpsnoop.WriteFunc) httpsnoop.WriteFunc {
				return func(p []byte) (int, error) { answers(http.StatusOK); return next(p) }
			},
			ReadFrom: func(next httpsnoop.ReadFromFunc) httpsnoop.ReadFromFunc {
				return func(src io.Reader) (int64, error) { answers(http.StatusOK); return next(src) }
			},
		})
		ended := false
		defer func() {
			switch {
			case e.user == "" || r.Context().Err() != nil: // nobody's, or its client left
			case !ended || e.failed:
				m.recorder.Record(e.arm, rollout.Failure, e.user, m.now().Sub(begun), 0)
			default:
				if first.IsZero() {
					first = m.now()
				}
				m.recorder.Record(e.arm, outcomeOf(status), e.user, first.Sub(begun), 0)
			}
		}()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), evidenceKey{}, e)))
		ended = true
	})
}

// outcomeOf tells what a status says about the feature.
func outcomeOf(status int) rollout.Outcome {
	switch {
	case status >= http.StatusInternalServerError:
		return rollout.Failure
	case status >= http.StatusBadRequest:
		return rollout.CallerError
	}
	return rollout.Success
}

// testify hands the outcome of a settings request to the rollout. Such a
// request is little but its use of the database.
func (m *Module) testify(user string, took time.Duration, err error) {
	status := http.StatusOK
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		status = p.Status
	} else if err != nil {
		status = http.StatusInternalServerError
	}
	m.recorder.Record(rollout.Exposed, outcomeOf(status), user, took, took)
}
