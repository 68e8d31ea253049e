package automation

import (
	"fmt"
	"io"
)

// Secret is text that is never printed: fmt with any verb, slog and encoding/json
// show [redacted], or nothing if it is empty. The zero Secret is empty.
type Secret struct {
	// A pointer, because fmt does not call methods of values in unexported fields,
	// or for some verbs. It then prints the fields, and of a pointer only the address.
	text *string
}

// NewSecret returns a Secret that holds text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text itself.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Equal reports whether both hold the same text, for go-cmp. It does not take
// constant time: compare a client's token with crypto/subtle instead.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

func (s Secret) redacted() string {
	if s.text == nil {
		return ""
	}
	return "[redacted]"
}

// Format writes [redacted], or nothing for an empty secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.redacted()) }

// MarshalText returns what Format writes, for encoding/json, log/slog and others.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.redacted()), nil }
