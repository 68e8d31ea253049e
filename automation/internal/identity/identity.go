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

// User is who makes a request. The id is [Valid].
type User struct {
	ID       string
	ReadOnly bool // may look at settings, not change them
}

// Func finds out who makes a request. The error is ErrUnknown or
// ErrUnavailable, wrapped.
type Func func(*http.Request) (User, error)

var (
	// ErrUnknown says that the request belongs to nobody.
	ErrUnknown = errors.New("the request belongs to nobody")
	// ErrUnavailable says that at the moment nobody can say whose it is.
	ErrUnavailable = errors.New("automation: identity unavailable")
)

// Challenge is the WWW-Authenticate of a 401.
const Challenge = `Bearer realm="automation"`

// maxID bounds an id in bytes, as package settings does.
const maxID = 256

// Valid reports whether an id can be stored.
func Valid(id string) bool {
	return id != "" && len(id) <= maxID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}
