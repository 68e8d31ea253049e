package session

import (
	"errors"
	"strings"
)

// ID is a session's id on the chain in its canonical form: 0x and 64 lower-case
// hex digits. [ParseID] converts what a client sends.
type ID string

var errBadID = errors.New("session: not a session id")

// hexDigits is the number of hex digits of an id's 32 bytes.
const hexDigits = 64

// ParseID returns the canonical form of an id. It accepts what the node
// accepts: 32 bytes in hex digits of either case, with or without 0x, and with
// or without a first digit that is zero. Anything else is an error.
func ParseID(text string) (ID, error) {
	digits := strings.ToLower(text)
	digits = strings.TrimPrefix(digits, "0x")
	if len(digits) == hexDigits-1 {
		digits = "0" + digits
	}
	if len(digits) != hexDigits {
		return "", errBadID
	}
	for i := range len(digits) {
		if c := digits[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", errBadID
		}
	}
	return ID("0x" + digits), nil
}

// String returns the id.
func (id ID) String() string { return string(id) }
