package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Type is what a model is for, as the network's registry states it. The empty
// Type is a model whose type is not stated, or a caller that takes any.
type Type string

// The types that the registry knows.
const (
	LLM       Type = "LLM"
	Embedding Type = "EMBEDDING"
	TTS       Type = "TTS"
	STT       Type = "STT"
	Unknown   Type = "UNKNOWN" // stated, but as none of the others
)

// Match is how a name found its model.
type Match string

// From the most literal to the most lenient.
const (
	ByID      Match = "id"
	ByName    Match = "name"
	ByAlias   Match = "alias"   // the slug of a name, or the feed's Venice id
	BySlug    Match = "slug"    // the slug of what was asked
	ByDefault Match = "default" // asked for nothing, for "default", or for a name that the file maps to "default"
	Fallback  Match = "unknown" // asked for a name that nobody knows; the default serves instead
)

// Model is a model of the network.
type Model struct {
	// Name is its canonical name: the file's first, else the feed's, else the id.
	Name    string
	ID      string    // 0x and 64 lower-case hex digits
	Type    Type      // empty where not stated
	Created time.Time // when it was registered on the chain; zero where not known
	Match   Match     // how it was found; in a listing ByName, or ByID where the id is the name
}

// serves reports whether a request of the wanted type may use the model: a
// type that is not stated passes, one that is stated as Unknown does not. The
// default, which nobody chose for this request, is treated as an LLM where its
// type is not stated.
func (m Model) serves(want Type) bool {
	if m.Type == "" && m.Match == ByDefault {
		return want == "" || want == LLM
	}
	return want == "" || m.Type == "" || m.Type == want
}

// What errors.Is finds in the errors of Resolve.
var (
	ErrNotFound     = errors.New("model not found")
	ErrTypeMismatch = errors.New("model type mismatch")
	ErrNotLoaded    = errors.New("mapping: not loaded: call Load first")
)

// NotFoundError is an [ErrNotFound].
type NotFoundError struct {
	Name        string   // what was asked, cut to 256 bytes of valid UTF-8
	Suggestions []string // at most 5 names that resolve, the nearest first; none where nothing is near
}

func (e *NotFoundError) Error() string {
	if len(e.Suggestions) == 0 {
		return fmt.Sprintf("mapping: resolve(%q): %v", e.Name, ErrNotFound)
	}
	return fmt.Sprintf("mapping: resolve(%q): %v; did you mean %s?", e.Name, ErrNotFound, strings.Join(e.Suggestions, ", "))
}

// Unwrap returns ErrNotFound.
func (e *NotFoundError) Unwrap() error { return ErrNotFound }

// TypeMismatchError is an [ErrTypeMismatch]: the model exists and is for
// something else.
type TypeMismatchError struct {
	ResolvedModel string // Model.Name
	ResolvedID    string // Model.ID
	RequestedType Type
	ModelType     Type // empty: not stated, and the model is the default
}

func (e *TypeMismatchError) Error() string {
	return fmt.Sprintf("mapping: resolve(%q): %v: the model is %s, the request needs %s",
		e.ResolvedModel, ErrTypeMismatch, cmp.Or(e.ModelType, "not stated"), e.RequestedType)
}

// Unwrap returns ErrTypeMismatch.
func (e *TypeMismatchError) Unwrap() error { return ErrTypeMismatch }
