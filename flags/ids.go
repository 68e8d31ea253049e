package flags

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
)

// IDs is an immutable set of user ids. The zero value is the empty set. A flag's
// list holds at most 10,000: more people are a percentage, or a flag of their own. In
// JSON it is a list, read from numbers and strings alike (7 and "7" are one
// user) and written as strings, sorted.
type IDs struct {
	set map[string]struct{}
	// lengths has a bit for each length of an id, the last for all from 63: who
	// is not listed often has an id of another length, and costs no look-up.
	lengths uint64
}

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

// Len is the number of ids.
func (s IDs) Len() int { return len(s.set) }

// List returns the ids, sorted; the slice is the caller's own.
func (s IDs) List() []string { return slices.Sorted(maps.Keys(s.set)) }

// listed is List, and never nil.
func (s IDs) listed() []string { return append([]string{}, s.List()...) }

// Equal reports whether both sets hold the same ids.
func (s IDs) Equal(t IDs) bool { return maps.Equal(s.set, t.set) }

// MarshalJSON implements json.Marshaler.
func (s IDs) MarshalJSON() ([]byte, error) {
	if s.Len() == 0 {
		return []byte("[]"), nil
	}
	return json.Marshal(s.List())
}

// UnmarshalJSON implements json.Unmarshaler. It reads whole numbers, as they
// are written, and strings that are not empty. Anything else is an error,
// which names the element and never shows an id.
func (s *IDs) UnmarshalJSON(b []byte) error {
	ids, err := flagsql.ParseIDs(string(b))
	if err == nil {
		*s = NewIDs(ids...)
	}
	return err
}

func (s IDs) validate() error {
	if n := s.Len(); n > flagsql.MaxIDs {
		return fmt.Errorf("the list has %d ids, at most %d are allowed; more users are a percentage, or a flag of their own", n, flagsql.MaxIDs)
	}
	for id := range s.set {
		if err := flagsql.CheckID(id); err != nil {
			return err
		}
	}
	return nil
}
