package flags

import (
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// View decides from an immutable snapshot of the flags, which its [Watcher]
// replaces: a decision never waits for the database. It is read-only, and safe
// for concurrent use.
type View struct {
	state     atomic.Pointer[snapshot]
	masterOff []string
	now       func() time.Time
	unknown   counters // of decisions about names that no row ever had
	file      *file    // nil without Options.File
}

// Decide decides about the flag of that name: first by the master switch, then
// by Evaluate. It allocates nothing. DecisionCounts counts the decision.
func (v *View) Decide(name, user string) Decision {
	e := v.state.Load().find(name)
	d := Decision{Reason: ReasonMasterOff, Bucket: noBucket}
	switch {
	case !v.isMasterOff(name):
		d = Evaluate(e.flag, user)
	case e.flag != nil:
		d.Version = e.flag.Version
	}
	counters := e.counters
	if counters == nil {
		counters = &v.unknown
	}
	counters[d.Reason].Add(1)
	return d
}

func (v *View) isMasterOff(name string) bool {
	return len(v.masterOff) > 0 && slices.Contains(v.masterOff, name)
}

// Explain returns why Decide decides as it does about the flag of that name.
// DecisionCounts does not count it.
func (v *View) Explain(name, user string) Explanation {
	return Explain(v.Flag(name), user, !v.isMasterOff(name))
}

// Flag returns the flag of that name in the current snapshot, or nil.
func (v *View) Flag(name string) *Flag { return v.state.Load().find(name).flag }

// Flags returns the flags in the current snapshot, sorted by name.
func (v *View) Flags() []*Flag { return v.state.Load().list() }

// Next returns a channel that is closed when the watcher's next pass ends,
// whether it succeeds or fails. To miss no change, call Next before Flag, Flags
// or Health.
func (v *View) Next() <-chan struct{} { return v.state.Load().replaced }

// Health is the state of a watcher.
type Health struct {
	// Loaded reports whether there are flags to decide from: at least one pass
	// has succeeded, or the snapshot file was read.
	Loaded bool
	// Age is the time since the last successful pass began. If FromFile, that
	// was a pass of the process that wrote the file. Age is 0 if not Loaded.
	Age      time.Duration
	Err      error       // of the last pass
	Bad      []*RowError // rows that cannot be read, sorted by name
	FromFile bool        // the flags are from the snapshot file: no pass has succeeded yet
	FileErr  error       // of the last use of the snapshot file
}

// Health returns how fresh the flags are, and what is wrong.
func (v *View) Health() Health {
	s := v.state.Load()
	h := Health{Loaded: s.loaded, Err: s.err, FromFile: s.fromFile}
	if s.loaded {
		h.Age = max(v.now().Sub(s.asOf), 0)
	}
	if v.file != nil {
		h.FileErr = v.file.lastError()
	}
	for _, name := range slices.Sorted(maps.Keys(s.bad)) {
		h.Bad = append(h.Bad, s.bad[name])
	}
	return h
}

// DecisionCount is the number of decisions about one flag for one reason.
type DecisionCount struct {
	Flag   string // empty: all names that no row ever had, together
	Reason Reason
	Count  uint64 // since NewWatcher
}

// DecisionCounts returns the counts above 0, sorted by flag and reason. They
// hold nothing about single users.
func (v *View) DecisionCounts() []DecisionCount {
	var list []DecisionCount
	add := func(name string, c *counters) {
		for reason := range c {
			if n := c[reason].Load(); n > 0 {
				list = append(list, DecisionCount{name, Reason(reason), n})
			}
		}
	}
	add("", &v.unknown)
	s := v.state.Load()
	for _, name := range slices.Sorted(maps.Keys(s.flags)) {
		add(name, s.flags[name].counters)
	}
	return list
}
