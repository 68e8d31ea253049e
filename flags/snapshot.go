package flags

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// snapshot is what a Watcher knows. Nothing in it changes once it is
// published, but for the counts.
type snapshot struct {
	flags   map[string]entry
	stamps  map[string]Stamp
	bad     map[string]*RowError
	read    bool      // at least one pass succeeded, or bridged
	bridged bool      // from the snapshot file, which has no stamps: the next pass reads all
	asOf    time.Time // when the last pass that succeeded began
	err     error     // of the last pass

	replaced chan struct{} // closed once another is in its place
}

type entry struct {
	flag   *Flag // nil: gone, or never readable
	counts *counts
}

type counts [reasons]atomic.Uint64

// with is the snapshot after a pass that began at asOf.
func (s *snapshot) with(l Loaded, asOf time.Time) *snapshot {
	next := &snapshot{flags: s.flags, stamps: l.Stamps, bad: s.bad, read: true, asOf: asOf}
	if !s.bridged && maps.Equal(s.stamps, l.Stamps) {
		return next
	}
	next.flags, next.bad = maps.Clone(s.flags), maps.Clone(s.bad)
	put := func(name string, f *Flag) {
		e := next.flags[name]
		if e.counts == nil {
			e.counts = new(counts)
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
		// The last good one goes on: a row that makes no sense is no
		// instruction, neither to switch off nor to switch on.
		put(bad.Name, next.flags[bad.Name].flag)
	}
	for name := range s.flags {
		if _, ok := l.Stamps[name]; !ok {
			delete(next.bad, name)
			put(name, nil)
		}
	}
	return next
}

// list is the flags that there are, by name.
func (s *snapshot) list() []*Flag {
	list := []*Flag{}
	for _, name := range slices.Sorted(maps.Keys(s.flags)) {
		if f := s.flags[name].flag; f != nil {
			list = append(list, f)
		}
	}
	return list
}

// failed is the snapshot after a pass that failed.
func (s *snapshot) failed(err error) *snapshot {
	next := *s
	next.err = err
	return &next
}
