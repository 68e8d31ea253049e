package automation

import (
	"fmt"
	"io"
)

// Secret is text that does not print: fmt with any verb, slog and encoding/json
// show [redacted], or nothing where it is empty. The zero Secret is empty.
type Secret struct {
	// A pointer, because fmt asks no method of what stands behind an unexported
	// field or a wrong verb, and then prints the address alone.
	text *string
}

// NewSecret hides text.
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

// Equal reports whether both hold the same text, for go-cmp. It takes no care to
// take the same time for all: compare what a client sends in another way.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

func (s Secret) redacted() string {
	if s.text == nil {
		return ""
	}
	return "[redacted]"
}

// Format writes [redacted], or nothing for an empty secret, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.redacted()) }

// MarshalText is the same for encoding/json, log/slog and their like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.redacted()), nil }
