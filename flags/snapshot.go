package flags

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// snapshot is what a View knows. Nothing in it changes once it is published,
// except the counters.
type snapshot struct {
	flags    map[string]entry
	few      []named // of the flags, if they are no more than maxFew
	versions map[string]RowVersion
	bad      map[string]*RowError
	loaded   bool      // at least one pass succeeded, or fromFile
	fromFile bool      // the file has no row versions: the next pass reads everything
	asOf     time.Time // when the last pass that succeeded began
	err      error     // of the last pass

	replaced chan struct{} // closed once another is in its place
}

type entry struct {
	flag     *Flag // nil: deleted, or never readable
	counters *counters
}

// named is an entry with its flag's name.
type named struct {
	name string
	entry
}

// maxFew flags are found sooner by comparing names than by a hash.
const maxFew = 8

// find returns the entry of a flag; a zero one if no row ever had that name.
func (s *snapshot) find(name string) entry {
	for i := range s.few {
		if s.few[i].name == name {
			return s.few[i].entry
		}
	}
	return s.flags[name]
}

// index sets few.
func (s *snapshot) index() {
	s.few = nil
	if len(s.flags) > maxFew {
		return
	}
	for name, e := range s.flags {
		s.few = append(s.few, named{name, e})
	}
}

type counters [reasonCount]atomic.Uint64

// with returns the snapshot after a pass that began at asOf.
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
		// The last good flag stays: a malformed row is no instruction, neither
		// to switch off nor to switch on.
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

// list returns the flags that there are, by name.
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
