package flags

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// IDs is an immutable set of user ids. The zero value is the empty set. A flag's
// list holds at most 10,000 ids; for more users, set a percentage or use another
// flag. In JSON it is a list. It is read from numbers and strings (7 and "7" are
// the same user), and written as sorted strings.
type IDs struct {
	set map[string]struct{}
	// lengths has the bits of the lengths that occur in set. An id of another
	// length is not in set, and Has finds that without a look-up.
	lengths uint64
}

// lengthBit returns the bit of an id's length; all lengths from 63 share one.
func lengthBit(id string) uint64 { return 1 << min(len(id), 63) }

// NewIDs returns the set of the given ids.
func NewIDs(ids ...string) IDs {
	if len(ids) == 0 {
		return IDs{}
	}
	s := IDs{set: make(map[string]struct{}, len(ids))}
	for _, id := range ids {
		s.set[id] = struct{}{}
		s.lengths |= lengthBit(id)
	}
	return s
}

// Has reports whether id is in the set.
func (s IDs) Has(id string) bool {
	if s.lengths&lengthBit(id) == 0 {
		return false
	}
	_, ok := s.set[id]
	return ok
}

// Len returns the number of ids.
func (s IDs) Len() int { return len(s.set) }

// List returns the ids, sorted, in a new slice; nil if there are none.
func (s IDs) List() []string { return slices.Sorted(maps.Keys(s.set)) }

// nonNilList is List, but never nil.
func (s IDs) nonNilList() []string { return append([]string{}, s.List()...) }

// Equal reports whether both sets hold the same ids.
func (s IDs) Equal(t IDs) bool { return maps.Equal(s.set, t.set) }

// MarshalJSON implements json.Marshaler.
func (s IDs) MarshalJSON() ([]byte, error) {
	if s.Len() == 0 {
		return []byte("[]"), nil
	}
	return json.Marshal(s.List())
}

// UnmarshalJSON implements json.Unmarshaler. It accepts whole numbers, whose
// digits are the id, and non-empty strings. An error names the wrong elements by
// their position and never shows an id.
func (s *IDs) UnmarshalJSON(b []byte) error {
	ids, err := flagsql.ParseIDs(string(b))
	if err == nil {
		*s = NewIDs(ids...)
	}
	return err
}

func (s IDs) validate() error {
	if n := s.Len(); n > flagsql.MaxIDs {
		return fmt.Errorf("the list has %d ids, at most %d are allowed; for more users, set a percentage or use another flag", n, flagsql.MaxIDs)
	}
	for id := range s.set {
		if err := flagsql.CheckID(id); err != nil {
			return err
		}
	}
	return nil
}
