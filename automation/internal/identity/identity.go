// Package identity defines the user who makes a request, as the host's Identify
// function returns it.
package identity

import (
	"errors"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// User is who makes a request.
type User struct {
	ID       string // passes [Valid]
	ReadOnly bool   // may read, but change nothing
}

// Func identifies the user who makes a request. Its error wraps ErrUnknown or
// ErrUnavailable.
type Func func(*http.Request) (User, error)

var (
	// ErrUnknown says that no user is known to make the request.
	ErrUnknown = errors.New("automation: unknown user")
	// ErrUnavailable says that the user cannot be identified at the moment.
	ErrUnavailable = errors.New("automation: identity unavailable")
)

// Challenge is the header WWW-Authenticate of a 401.
const Challenge = `Bearer realm="automation"`

// maxID bounds an id, in bytes. It is the limit of package settings too.
const maxID = 256

// Valid reports whether an id can be stored.
func Valid(id string) bool {
	return id != "" && len(id) <= maxID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}
