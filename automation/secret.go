package automation

import (
	"fmt"
	"io"
	"log/slog"
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

// Equal reports whether both hold the same text. It takes no care to take the
// same time for all: compare what a client sends in another way.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// String returns [redacted], or "" for an empty secret.
func (s Secret) String() string {
	if s.text == nil {
		return ""
	}
	return "[redacted]"
}

// Format writes String, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for encoding/json and its like.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
