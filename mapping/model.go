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

// The values of Model.Match.
const (
	matchID       = "id"
	matchName     = "name"
	matchAlias    = "alias"
	matchSlug     = "slug"
	matchDefault  = "default"
	matchFallback = "unknown"
)

// Model is a model of the network.
type Model struct {
	// Name is its canonical name: the file's first, else the feed's, else the id.
	Name    string
	ID      string    // 0x and 64 lower-case hex digits
	Type    Type      // empty where not stated
	Created time.Time // when it was registered on the chain; zero where not known
	// Match is how it was found, from the most literal to the most lenient: "id",
	// "name", "alias" (the slug of a name, or the feed's Venice id), "slug" (of what
	// was asked), "default" (asked for nothing, for "default", or for a name that the
	// file maps to it), "unknown" (asked for a name that nobody knows). In a
	// listing it is "name", or "id" where the id is the name.
	Match string
}

// serves reports whether a request of the wanted type may use the model: a
// type that is not stated passes, one that is stated as Unknown does not. The
// default, which nobody chose for this request, is treated as an LLM where its
// type is not stated.
func (m Model) serves(want Type) bool {
	if m.Type == "" && m.Match == matchDefault {
		return want == "" || want == LLM
	}
	return want == "" || m.Type == "" || m.Type == want
}

// ErrNotLoaded is the error of Resolve before the first Load.
var ErrNotLoaded = errors.New("mapping: not loaded: call Load first")

// NotFoundError says that no model has the name.
type NotFoundError struct {
	Name        string   // what was asked, cut to 256 bytes of valid UTF-8
	Suggestions []string // at most 5 names that resolve, the nearest first; none where nothing is near
}

func (e *NotFoundError) Error() string {
	if len(e.Suggestions) == 0 {
		return fmt.Sprintf("mapping: resolve(%q): model not found", e.Name)
	}
	return fmt.Sprintf("mapping: resolve(%q): model not found; did you mean %s?", e.Name, strings.Join(e.Suggestions, ", "))
}

// TypeMismatchError says that the model exists and is for something else.
type TypeMismatchError struct {
	ResolvedModel string // Model.Name
	ResolvedID    string // Model.ID
	RequestedType Type
	ModelType     Type // empty: not stated, and the model is the default
}

func (e *TypeMismatchError) Error() string {
	return fmt.Sprintf("mapping: resolve(%q): model type mismatch: the model is %s, the request needs %s",
		e.ResolvedModel, cmp.Or(e.ModelType, "not stated"), e.RequestedType)
}
