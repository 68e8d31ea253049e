package flags

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

// Source is where a Watcher reads flags; *Store is one.
type Source interface {
	// Load returns the flags that differ from known, as Store.Load does.
	Load(ctx context.Context, known map[string]RowVersion) (LoadResult, error)
}

// Options of a Watcher. The zero value works.
type Options struct {
	// MasterOff names the flags whose master switch is off in this process:
	// every decision about them is off, whatever their rows say.
	MasterOff []string
	// Interval is the pause between two polls, plus or minus 10 %; 0 means 1 s.
	Interval time.Duration
	// File is the path of the snapshot file, for a restart while the database is
	// unavailable: if the first pass fails, decisions use the flags in the file
	// until a pass succeeds. Run writes the file. Empty means no file.
	//
	// A truncated, damaged or edited file is ignored. The file holds users' ids,
	// so only its owner may read it (mode 0600). Its checksum is not a signature,
	// so nobody else may have write access to its directory. Each process needs
	// its own file.
	File string
	// Logger logs changes of flags, and each problem once; nil means no logging.
	Logger *slog.Logger
	// Now is the clock for ages; nil means time.Now.
	Now func() time.Time
}

// Watcher keeps its View fresh by polling. While the database is unavailable,
// decisions use the last good snapshot, and Health shows its age. A row that
// cannot be read leaves its flag as it last was, unless the row certainly has
// enabled = false.
type Watcher struct {
	*View
	source   Source
	interval time.Duration
	log      *slog.Logger
	trigger  retry.Trigger
}

// NewWatcher returns a watcher that has no flags until Refresh or Run.
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
		// In its own goroutine, so that a slow disk does not delay the passes.
		writing.Go(func() { w.file.run(ctx, w.state.Load) })
	}
	retry.Loop(ctx, w.trigger, func(ctx context.Context) time.Duration {
		_ = w.Refresh(ctx)
		return w.interval
	})
}

// Trigger makes Run refresh now instead of at its next interval. It never
// blocks. Calls while a refresh is pending have no effect.
func (w *Watcher) Trigger() { w.trigger.Fire() }

// Refresh runs one pass. When it returns nil, decisions see everything that was
// committed before the call. Passes may overlap.
func (w *Watcher) Refresh(ctx context.Context) error {
	for {
		last, asOf := w.state.Load(), w.now()
		loaded, err := w.source.Load(ctx, last.versions)
		if err != nil {
			if ctx.Err() != context.Canceled { //nolint:errorlint // a cancelled pass says nothing about the database
				w.publish(ctx, last, last.failed(err))
				w.restoreFromFile(ctx)
			}
			return err
		}
		if w.publish(ctx, last, last.with(loaded, asOf)) {
			return nil
		}
		// Another pass published first, and may have read older rows: read again.
	}
}

// restoreFromFile publishes the flags of the snapshot file if none were read yet.
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

// publish replaces last by next and returns true, or returns false if last was
// already replaced.
func (w *Watcher) publish(ctx context.Context, last, next *snapshot) bool {
	next.replaced = make(chan struct{})
	next.setIndex()
	if !w.state.CompareAndSwap(last, next) {
		return false
	}
	close(last.replaced)
	w.logHealth(ctx, last, next)
	hasChanged := w.logChanges(ctx, last, next)
	isFirst := next.loaded && (!last.loaded || last.fromFile)
	if w.file != nil && (hasChanged || isFirst) {
		w.file.changed.Fire()
	}
	return true
}

func (w *Watcher) logHealth(ctx context.Context, last, next *snapshot) {
	switch {
	case next.err != nil && last.err == nil:
		w.log.WarnContext(ctx, "flags cannot be read; the last snapshot stays in use", "error", next.err)
	case next.err == nil && last.err != nil:
		w.log.InfoContext(ctx, "flags can be read again", "after", next.asOf.Sub(last.asOf))
	}
	for name, bad := range next.bad {
		if last.bad[name] != bad {
			w.log.ErrorContext(ctx, "a flag's row is malformed", "flag", name, "error", bad.Err)
		}
	}
	if next.fromFile && !last.fromFile {
		w.log.WarnContext(ctx, "flags come from the snapshot file until the database can be read", "age", w.now().Sub(next.asOf))
	}
}

// logChanges logs each flag that has changed, and reports whether any has.
func (w *Watcher) logChanges(ctx context.Context, last, next *snapshot) (hasChanged bool) {
	for name, e := range next.flags {
		before, after := last.flags[name].flag, e.flag
		if before == after {
			continue
		}
		hasChanged = true
		if before != nil && after != nil && before.Version == after.Version && before.UpdatedAt.Equal(after.UpdatedAt) {
			continue // before came from the snapshot file, and the row is still the same
		}
		by := ""
		if after != nil {
			by = after.UpdatedBy
		}
		w.log.InfoContext(ctx, "flag changed", "flag", name, "was", before.summary(), "is", after.summary(), "by", by)
	}
	return hasChanged
}
