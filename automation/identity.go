package automation

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/identity"
)

// Identity is who makes a request.
type Identity struct {
	UserID   string // at most 256 bytes of UTF-8, without control characters
	ReadOnly bool   // may read settings but not change them
}

// Identify returns the user who makes a request. An error means that the request
// has no valid user (401), unless it wraps ErrIdentityUnavailable (503).
type Identify func(*http.Request) (Identity, error)

// ErrIdentityUnavailable says that a request's user cannot be determined at the
// moment, for example because the host's own store fails.
var ErrIdentityUnavailable = identity.ErrUnavailable

// identifier adapts the host's function to the handlers, and rejects ids that the
// database could not store.
func (m *Module) identifier(identify Identify) identity.Func {
	return func(r *http.Request) (identity.User, error) {
		id, err := identify(r)
		switch {
		case errors.Is(err, ErrIdentityUnavailable):
			return identity.User{}, err
		case err != nil:
			return identity.User{}, fmt.Errorf("%w: %w", identity.ErrUnknown, err)
		case !identity.Valid(id.UserID):
			m.log.WarnContext(r.Context(), "Identify returned an id that cannot be stored: it is empty, over 256 bytes, or has control characters")
			return identity.User{}, identity.ErrUnknown
		}
		return identity.User{ID: id.UserID, ReadOnly: id.ReadOnly}, nil
	}
}
