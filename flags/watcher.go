package flags

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Source is where a Watcher gets flags from; *Store is one.
type Source interface {
	// Load is as Store.Load.
	Load(ctx context.Context, known map[string]Stamp) (Loaded, error)
}

// Options of a Watcher. The zero value works.
type Options struct {
	// MasterOff is the master switch of this process: every decision is off.
	MasterOff bool
	// Interval is the pause between two polls, give or take a tenth; 0 means 1 s.
	Interval time.Duration
	// File is where Run keeps a snapshot of the flags that bridges a restart
	// while the database is away: if the first pass fails, the flags in the file
	// serve until a pass succeeds. Empty means none. A file that was cut off,
	// damaged or edited is ignored. It holds users' ids, so only its owner may
	// read it (mode 0600); its checksum is no signature, so nobody else may be
	// able to write to its directory. Each process needs a file of its own.
	File string
	// Logger gets changes of flags, and troubles once each; nil means none.
	Logger *slog.Logger
	// Now is the clock for ages; nil means time.Now.
	Now func() time.Time
}

// Watcher decides from an immutable snapshot of the flags, which it keeps
// fresh by polling; a decision never waits for the database. While the
// database is away, the last good snapshot serves, and its age shows. A row
// that cannot be read leaves its flag as it last was, unless the row says for
// certain that the flag is not enabled.
type Watcher struct {
	source  Source
	o       Options
	state   atomic.Pointer[snapshot]
	nudged  chan struct{}
	missing counts
	file    *file // nil: none
}

// NewWatcher is a watcher that knows no flags until Refresh or Run.
func NewWatcher(source Source, o Options) *Watcher {
	if o.Interval <= 0 {
		o.Interval = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the default
	}
	w := &Watcher{source: source, o: o, nudged: make(chan struct{}, 1)}
	if o.File != "" {
		w.file = &file{path: o.File, log: o.Logger, due: make(chan struct{}, 1)}
	}
	w.state.Store(&snapshot{flags: map[string]entry{}, bad: map[string]*RowError{}, replaced: make(chan struct{})})
	return w
}

// Decide is Evaluate on the flag of that name, with the master switch before
// it. It allocates nothing, and counts in Exposures.
func (w *Watcher) Decide(name, user string) Decision {
	e := w.state.Load().flags[name]
	d := Evaluate(e.flag, user)
	if w.o.MasterOff {
		d.On, d.Reason = false, MasterOff
	}
	counts := e.counts
	if counts == nil {
		counts = &w.missing
	}
	counts[d.Reason].Add(1)
	return d
}

// Flag is the flag of that name as decisions see it, or nil.
func (w *Watcher) Flag(name string) *Flag { return w.state.Load().flags[name].flag }

// Flags are the flags as decisions see them, by name.
func (w *Watcher) Flags() []*Flag { return w.state.Load().list() }

// Next is closed when the next pass has ended, whatever came of it. Who calls
// it before looking at Flags or Health misses nothing.
func (w *Watcher) Next() <-chan struct{} { return w.state.Load().replaced }

// Run refreshes at every interval and every nudge until ctx ends, and keeps the
// snapshot file. Troubles are logged and shown by Health.
func (w *Watcher) Run(ctx context.Context) {
	if w.file != nil {
		var keeping sync.WaitGroup
		defer keeping.Wait()
		// Apart from the passes, which a slow disk must not hold up.
		keeping.Go(func() { w.file.keep(ctx, w.state.Load) })
	}
	for ctx.Err() == nil {
		_ = w.Refresh(ctx)
		pause := time.NewTimer(time.Duration(float64(w.o.Interval) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-pause.C:
		case <-w.nudged:
			pause.Stop()
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// Nudge has Run refresh now: a hint that something has changed. It never
// blocks; nudges that come together cause one refresh.
func (w *Watcher) Nudge() {
	select {
	case w.nudged <- struct{}{}:
	default:
	}
}

// Refresh is one pass. When it returns nil, decisions see all that was
// committed before it was called. Passes may overlap.
func (w *Watcher) Refresh(ctx context.Context) error {
	for {
		last, asOf := w.state.Load(), w.o.Now()
		loaded, err := w.source.Load(ctx, last.stamps)
		if err != nil {
			if ctx.Err() != context.Canceled { //nolint:errorlint // the caller who leaves is no trouble of the database
				w.publish(ctx, last, last.failed(err))
				w.bridge(ctx)
			}
			return err
		}
		if w.publish(ctx, last, last.with(loaded, asOf)) {
			return nil
		}
		// Another pass came first, and may have read before this one did.
	}
}

// bridge takes the flags from the snapshot file, where nothing was read yet.
func (w *Watcher) bridge(ctx context.Context) {
	if w.file == nil || w.state.Load().read {
		return
	}
	s := w.file.load(ctx)
	if s == nil {
		return
	}
	for {
		last := w.state.Load()
		if last.read || w.publish(ctx, last, s.failed(last.err)) {
			return
		}
	}
}

// publish puts next in the place of last, unless that has been replaced.
func (w *Watcher) publish(ctx context.Context, last, next *snapshot) bool {
	next.replaced = make(chan struct{})
	if !w.state.CompareAndSwap(last, next) {
		return false
	}
	close(last.replaced)
	log := w.o.Logger
	switch {
	case next.err != nil && last.err == nil:
		log.WarnContext(ctx, "flags cannot be read; the last ones go on", "error", next.err)
	case next.err == nil && last.err != nil:
		log.InfoContext(ctx, "flags can be read again", "after", next.asOf.Sub(last.asOf))
	}
	for name, bad := range next.bad {
		if last.bad[name] != bad {
			log.ErrorContext(ctx, "a flag's row is malformed", "flag", name, "error", bad.Err)
		}
	}
	if next.bridged && !last.bridged {
		log.WarnContext(ctx, "the flags are those of the snapshot file until they can be read", "age", w.o.Now().Sub(next.asOf))
	}
	changed := next.read && (!last.read || last.bridged)
	for name, e := range next.flags {
		was, is := last.flags[name].flag, e.flag
		if was == is {
			continue
		}
		changed = true
		if was != nil && is != nil && was.Version == is.Version && was.UpdatedAt.Equal(is.UpdatedAt) {
			continue // it was in the snapshot file, and is as it was
		}
		by := ""
		if is != nil {
			by = is.UpdatedBy
		}
		log.InfoContext(ctx, "flag changed", "flag", name, "was", was.summary(), "is", is.summary(), "by", by)
	}
	if changed && w.file != nil {
		w.file.changed()
	}
	return true
}

// summary is the flag in a line, without anybody's id.
func (f *Flag) summary() string {
	if f == nil {
		return "missing"
	}
	return fmt.Sprintf("version %d: enabled %t, %v %%, %d in, %d out, seed %q",
		f.Version, f.Enabled, f.Percentage, f.EnabledUserIDs.Len(), f.DisabledUserIDs.Len(), cmp.Or(f.Seed, f.Name))
}

// Health is how a watcher fares.
type Health struct {
	// Loaded says that there are flags to decide from: at least one pass has
	// succeeded, or the snapshot file was read.
	Loaded bool
	// Age is the time since the last pass that succeeded began, be it that of
	// the process that wrote the file; 0 if not Loaded.
	Age     time.Duration
	Err     error       // of the last pass
	Bad     []*RowError // rows that cannot be read, by name
	Bridged bool        // the flags are those of Options.File: no pass has succeeded yet
	FileErr error       // of the last use of Options.File
}

// Health tells how fresh the flags are, and what is wrong.
func (w *Watcher) Health() Health {
	s := w.state.Load()
	h := Health{Loaded: s.read, Err: s.err, Bridged: s.bridged}
	if s.read {
		h.Age = max(w.o.Now().Sub(s.asOf), 0)
	}
	if w.file != nil {
		h.FileErr = w.file.err()
	}
	for _, name := range slices.Sorted(maps.Keys(s.bad)) {
		h.Bad = append(h.Bad, s.bad[name])
	}
	return h
}

// Exposure is how often decisions about a flag were made for one reason.
type Exposure struct {
	Flag   string // empty: all names that no row ever had
	Reason Reason
	Count  uint64 // since the watcher was made
}

// Exposures counts the decisions, by flag and reason, those with at least one.
// Nothing in them tells users apart.
func (w *Watcher) Exposures() []Exposure {
	var list []Exposure
	add := func(name string, c *counts) {
		for reason := range c {
			if n := c[reason].Load(); n > 0 {
				list = append(list, Exposure{name, Reason(reason), n})
			}
		}
	}
	add("", &w.missing)
	s := w.state.Load()
	for _, name := range slices.Sorted(maps.Keys(s.flags)) {
		add(name, s.flags[name].counts)
	}
	return list
}
