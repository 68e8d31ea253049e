package flags

import (
	"encoding/json"
	"iter"
	"slices"
)

// MaxList is the most bytes that a list of ids may have as JSON: about six
// million ids of ten digits.
const MaxList = 64 << 20

// IDs is an immutable set of user ids. The zero value is the empty set. In
// JSON it is a list, read from numbers and texts alike (7 and "7" are one
// user) and written as texts, sorted.
type IDs struct{ set *packed }

// NewIDs is the set of the given ids.
func NewIDs(ids ...string) IDs {
	var text []byte
	for _, id := range ids {
		text = appendID(text, id)
	}
	return pack(text, len(ids))
}

// Has tells whether id is in the set.
func (s IDs) Has(id string) bool { return s.set != nil && s.set.has(id) }

// Len is the number of ids.
func (s IDs) Len() int {
	if s.set == nil {
		return 0
	}
	return s.set.n
}

func (s IDs) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s.set != nil {
			s.set.each(yield)
		}
	}
}

// List is the ids, sorted; the slice is the caller's own.
func (s IDs) List() []string { return slices.Sorted(s.all()) }

// Equal tells whether both sets hold the same ids.
func (s IDs) Equal(t IDs) bool {
	if s.Len() != t.Len() {
		return false
	}
	for id := range s.all() {
		if !t.Has(id) {
			return false
		}
	}
	return true
}

// MarshalJSON implements json.Marshaler.
func (s IDs) MarshalJSON() ([]byte, error) {
	if s.Len() == 0 {
		return []byte("[]"), nil
	}
	return json.Marshal(s.List())
}

// UnmarshalJSON implements json.Unmarshaler; it takes what ParseIDs does.
func (s *IDs) UnmarshalJSON(b []byte) (err error) {
	*s, err = ParseIDs(string(b))
	return err
}
