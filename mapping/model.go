package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Type is what a model is for. The empty Type means that the type is not stated,
// or, as what a request needs, that any type will do.
type Type string

// The types of the network's registry.
const (
	LLM       Type = "LLM"
	Embedding Type = "EMBEDDING"
	TTS       Type = "TTS"
	STT       Type = "STT"
	Unknown   Type = "UNKNOWN" // a stated type other than these
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
	// Name is the canonical name: the first in the file, else the feed's, else
	// the id.
	Name    string
	ID      string    // 0x and 64 lower-case hex digits
	Type    Type      // empty if not stated
	Created time.Time // when it was registered on the chain; zero if not known
	// Match is how Resolve found the model:
	//
	//   - "id";
	//   - "name";
	//   - "alias": the slug of a name, or the feed's Venice id;
	//   - "slug": by the slug of the requested name;
	//   - "default": an empty name, "default", or a name that the file maps to it;
	//   - "unknown": the default instead of a name that was not found.
	//
	// In Models it is "name", or "id" if the id is the name.
	Match string
}

// serves reports whether the model may serve a request that needs the type. A
// model whose type is not stated serves any request; one of the type Unknown
// serves only requests without a type. The default, which the request did not
// name, counts as an LLM if its type is not stated.
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
	Name        string   // the requested name, cut to 256 bytes of valid UTF-8
	Suggestions []string // at most 5 similar names that resolve, the most similar first
}

func (e *NotFoundError) Error() string {
	if len(e.Suggestions) == 0 {
		return fmt.Sprintf("mapping: resolve(%q): model not found", e.Name)
	}
	return fmt.Sprintf("mapping: resolve(%q): model not found; did you mean %s?", e.Name, strings.Join(e.Suggestions, ", "))
}

// TypeMismatchError says that the model exists but is of another type.
type TypeMismatchError struct {
	ResolvedModel string // Model.Name
	ResolvedID    string // Model.ID
	RequestedType Type
	ModelType     Type // empty: the default, whose type is not stated
}

func (e *TypeMismatchError) Error() string {
	return fmt.Sprintf("mapping: resolve(%q): model type mismatch: the model is %s, the request needs %s",
		e.ResolvedModel, cmp.Or(e.ModelType, "not stated"), e.RequestedType)
}
