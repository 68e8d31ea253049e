package mapping

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is a set of models with their names, immutable, for use by any number
// of goroutines.
type Table struct {
	// index holds ids, names and aliases by their folded spelling. They were
	// put in by precedence, so that one look finds the right one.
	index  map[string]Model
	models []Model     // one for each id, sorted
	near   []candidate // what may be suggested
}

// Resolve finds the model that a name means, in the order that the package's
// overview gives. Want is the type that the request needs, or empty for any.
// A hit costs no allocation. The errors are [*NotFoundError] and
// [*TypeMismatchError].
func (t *Table) Resolve(name string, want Type) (Model, error) {
	m, ok := t.lookup(name)
	if !ok {
		return Model{}, t.notFound(name, want)
	}
	if !m.serves(want) {
		return Model{}, &TypeMismatchError{ResolvedModel: m.Name, ResolvedID: m.ID, RequestedType: want, ModelType: m.Type}
	}
	return m, nil
}

func (t *Table) lookup(name string) (Model, bool) {
	if len(name) > maxName || !utf8.ValidString(name) {
		return Model{}, false
	}
	name = strings.TrimSpace(name)
	if name == "" {
		name = defaultName
	}
	var buf [maxName]byte
	key := fold(buf[:0], name)
	if m, ok := t.index[string(key)]; ok {
		return m, true
	}
	m, ok := t.index[string(slug(key))]
	if ok && m.Match != matchDefault {
		m.Match = matchSlug
	}
	return m, ok
}

// Models lists every model once, sorted by its canonical name without regard to
// letter case; the default is among them only under a name of its own. The
// slice is the caller's own.
func (t *Table) Models() []Model { return slices.Clone(t.models) }

// Default returns the model that an empty name means. Its name is "default"
// where it has no other.
func (t *Table) Default() Model { return t.index[defaultName] }
