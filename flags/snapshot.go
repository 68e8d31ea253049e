package flags

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// snapshot is the state of a View. Once it is published, nothing in it changes
// except the counters.
type snapshot struct {
	flags    map[string]entry
	index    []namedEntry // the same entries, if there are at most maxIndex
	versions map[string]RowVersion
	bad      map[string]*RowError
	loaded   bool      // at least one pass succeeded, or fromFile
	fromFile bool      // the file has no row versions: the next pass reads everything
	asOf     time.Time // when the last successful pass began
	err      error     // of the last pass

	replaced chan struct{} // closed when another snapshot is published
}

type entry struct {
	flag     *Flag // nil: deleted, or never readable
	counters *counters
}

// namedEntry is an entry with its flag's name.
type namedEntry struct {
	name string
	entry
}

// maxIndex is the number of flags up to which comparing names is faster than a
// look-up in a map.
const maxIndex = 8

// find returns the entry of a flag, or a zero entry if no row ever had that name.
func (s *snapshot) find(name string) entry {
	for i := range s.index {
		if s.index[i].name == name {
			return s.index[i].entry
		}
	}
	return s.flags[name]
}

// setIndex builds the index from the flags.
func (s *snapshot) setIndex() {
	s.index = nil
	if len(s.flags) > maxIndex {
		return
	}
	for name, e := range s.flags {
		s.index = append(s.index, namedEntry{name, e})
	}
}

// counters count decisions by reason.
type counters [reasonCount]atomic.Uint64

// with returns the snapshot after a successful pass that began at asOf.
func (s *snapshot) with(l LoadResult, asOf time.Time) *snapshot {
	next := &snapshot{flags: s.flags, versions: l.Versions, bad: s.bad, loaded: true, asOf: asOf}
	if !s.fromFile && maps.Equal(s.versions, l.Versions) {
		return next
	}
	next.flags, next.bad = maps.Clone(s.flags), maps.Clone(s.bad)
	put := func(name string, f *Flag) {
		e := next.flags[name]
		if e.counters == nil {
			e.counters = new(counters)
		}
		e.flag = f
		next.flags[name] = e
	}
	for _, f := range l.Flags {
		delete(next.bad, f.Name)
		put(f.Name, f)
	}
	for _, bad := range l.Bad {
		next.bad[bad.Name] = bad
		// The flag stays as it was: a malformed row says neither on nor off.
		put(bad.Name, next.flags[bad.Name].flag)
	}
	for name := range s.flags {
		if _, ok := l.Versions[name]; !ok {
			delete(next.bad, name)
			put(name, nil)
		}
	}
	return next
}

// list returns the existing flags, sorted by name.
func (s *snapshot) list() []*Flag {
	list := []*Flag{}
	for _, name := range slices.Sorted(maps.Keys(s.flags)) {
		if f := s.flags[name].flag; f != nil {
			list = append(list, f)
		}
	}
	return list
}

// failed returns the snapshot after a pass that failed.
func (s *snapshot) failed(err error) *snapshot {
	next := *s
	next.err = err
	return &next
}
