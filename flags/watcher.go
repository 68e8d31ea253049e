package flags

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// Source is where a Watcher gets flags from; *Store is one.
type Source interface {
	// Load is as Store.Load.
	Load(ctx context.Context, known map[string]RowVersion) (LoadResult, error)
}

// Options of a Watcher. The zero value works.
type Options struct {
	// MasterOff names the flags whose master switch is off in this process:
	// every decision about them is off, whatever their rows say. Other flags
	// decide as ever.
	MasterOff []string
	// Interval is the pause between two polls, give or take a tenth; 0 means 1 s.
	Interval time.Duration
	// File is where Run keeps a snapshot of the flags for a restart while the
	// database is away: if the first pass fails, the flags in the file serve
	// until a pass succeeds. Empty means none. A file that was cut off, damaged
	// or edited is ignored. It holds users' ids, so only its owner may read it
	// (mode 0600); its checksum is no signature, so nobody else may be able to
	// write to its directory. Each process needs a file of its own.
	File string
	// Logger gets changes of flags, and each problem once; nil means none.
	Logger *slog.Logger
	// Now is the clock for ages; nil means time.Now.
	Now func() time.Time
}

// Watcher keeps its View fresh by polling. While the database is away, the last
// good snapshot serves, and its age shows. A row that cannot be read leaves its
// flag as it last was, unless the row certainly says that the flag is not
// enabled.
type Watcher struct {
	*View
	source   Source
	interval time.Duration
	log      *slog.Logger
	trigger  retry.Trigger
}

// NewWatcher returns a watcher that knows no flags until Refresh or Run.
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
	v := &View{masterOff: o.MasterOff, now: o.Now}
	if o.File != "" {
		v.file = newFile(o.File, o.Logger)
	}
	v.state.Store(&snapshot{flags: map[string]entry{}, bad: map[string]*RowError{}, replaced: make(chan struct{})})
	return &Watcher{View: v, source: source, interval: o.Interval, log: o.Logger, trigger: retry.NewTrigger()}
}

// Run refreshes at every interval and every Trigger until ctx ends, and keeps
// the snapshot file. Problems are logged and shown by Health.
func (w *Watcher) Run(ctx context.Context) {
	if w.file != nil {
		var writing sync.WaitGroup
		defer writing.Wait()
		// Apart from the passes, which a slow disk must not hold up.
		writing.Go(func() { w.file.run(ctx, w.state.Load) })
	}
	retry.Loop(ctx, w.trigger, func(ctx context.Context) time.Duration {
		_ = w.Refresh(ctx)
		return w.interval
	})
}

// Trigger makes Run refresh now: a hint that something has changed. It never
// blocks; calls that come together cause one refresh.
func (w *Watcher) Trigger() { w.trigger.Fire() }

// Refresh is one pass. When it returns nil, decisions see all that was
// committed before it was called. Passes may overlap.
func (w *Watcher) Refresh(ctx context.Context) error {
	for {
		last, asOf := w.state.Load(), w.now()
		loaded, err := w.source.Load(ctx, last.versions)
		if err != nil {
			if ctx.Err() != context.Canceled { //nolint:errorlint // a caller who leaves is no fault of the database
				w.publish(ctx, last, last.failed(err))
				w.restoreFromFile(ctx)
			}
			return err
		}
		if w.publish(ctx, last, last.with(loaded, asOf)) {
			return nil
		}
		// Another pass was first, and may have read before this one did.
	}
}

// restoreFromFile takes the flags from the snapshot file if none were read yet.
func (w *Watcher) restoreFromFile(ctx context.Context) {
	if w.file == nil || w.state.Load().loaded {
		return
	}
	s := w.file.load(ctx)
	if s == nil {
		return
	}
	for {
		last := w.state.Load()
		if last.loaded || w.publish(ctx, last, s.failed(last.err)) {
			return
		}
	}
}

// publish replaces last by next, unless last has been replaced already.
func (w *Watcher) publish(ctx context.Context, last, next *snapshot) bool {
	next.replaced = make(chan struct{})
	next.index()
	if !w.state.CompareAndSwap(last, next) {
		return false
	}
	close(last.replaced)
	w.logHealth(ctx, last, next)
	changed := w.logChanges(ctx, last, next)
	if w.file != nil && (changed || next.loaded && (!last.loaded || last.fromFile)) {
		w.file.changed.Fire()
	}
	return true
}

func (w *Watcher) logHealth(ctx context.Context, last, next *snapshot) {
	switch {
	case next.err != nil && last.err == nil:
		w.log.WarnContext(ctx, "flags cannot be read; the last ones stay in use", "error", next.err)
	case next.err == nil && last.err != nil:
		w.log.InfoContext(ctx, "flags can be read again", "after", next.asOf.Sub(last.asOf))
	}
	for name, bad := range next.bad {
		if last.bad[name] != bad {
			w.log.ErrorContext(ctx, "a flag's row is malformed", "flag", name, "error", bad.Err)
		}
	}
	if next.fromFile && !last.fromFile {
		w.log.WarnContext(ctx, "the flags are those of the snapshot file until they can be read", "age", w.now().Sub(next.asOf))
	}
}

// logChanges logs each flag that is another, and reports whether any is.
func (w *Watcher) logChanges(ctx context.Context, last, next *snapshot) (changed bool) {
	for name, e := range next.flags {
		before, after := last.flags[name].flag, e.flag
		if before == after {
			continue
		}
		changed = true
		if before != nil && after != nil && before.Version == after.Version && before.UpdatedAt.Equal(after.UpdatedAt) {
			continue // it comes from the snapshot file and has not changed since
		}
		by := ""
		if after != nil {
			by = after.UpdatedBy
		}
		w.log.InfoContext(ctx, "flag changed", "flag", name, "was", before.summary(), "is", after.summary(), "by", by)
	}
	return changed
}
