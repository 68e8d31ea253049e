package mapping

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is an immutable set of models and their names. It is safe for concurrent
// use.
type Table struct {
	// index maps each folded id, name and alias to its model. Build resolves
	// their precedence, so that one look-up suffices.
	index      map[string]Model
	models     []Model     // one for each id, sorted
	candidates []candidate // for suggestions
}

// Resolve returns the model that a name means, in the order that the package's
// comment gives. want is the type that the request needs; empty means any type.
// Resolve allocates nothing if it finds the name. The error is a [*NotFoundError]
// or a [*TypeMismatchError].
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

// lookup finds a model without regard to its type.
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

// Models returns every model once, in a new slice, sorted by canonical name
// without regard to letter case. It does not include a default model whose only
// name is "default".
func (t *Table) Models() []Model { return slices.Clone(t.models) }

// Default returns the model that an empty name means. Its name is "default" if it
// has no other.
func (t *Table) Default() Model { return t.index[defaultName] }
