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
	ReadOnly bool   // may look at settings, not change them
}

// Identify finds out who makes a request. An error means nobody (401), unless
// it wraps ErrIdentityUnavailable (503).
type Identify func(*http.Request) (Identity, error)

// ErrIdentityUnavailable says that at the moment nobody can say who makes a
// request.
var ErrIdentityUnavailable = identity.ErrUnavailable

// identifier adapts the host's function to what the handlers need.
func (m *Module) identifier(identify Identify) identity.Func {
	return func(r *http.Request) (identity.User, error) {
		who, err := identify(r)
		switch {
		case errors.Is(err, ErrIdentityUnavailable):
			return identity.User{}, err
		case err != nil:
			return identity.User{}, fmt.Errorf("%w: %w", identity.ErrUnknown, err)
		case !identity.Valid(who.UserID):
			m.log.WarnContext(r.Context(), "Identify returned an id that cannot be stored: it is empty, over 256 bytes, or has control characters")
			return identity.User{}, identity.ErrUnknown
		}
		return identity.User{ID: who.UserID, ReadOnly: who.ReadOnly}, nil
	}
}
