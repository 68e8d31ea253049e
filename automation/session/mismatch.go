package session

import (
	"strings"
	"time"
)

// ignoresOmission reports whether the node opens with the provider that it was
// told to omit. Nodes before July 2026 do not know the field.
func (m *Manager) ignoresOmission() bool {
	if p, ok := m.provider.(interface{ IgnoresOmitProvider() bool }); ok && p.IgnoresOmitProvider() {
		return true
	}
	return m.opts.Now().Before(time.Unix(0, m.omitIgnoredUntil.Load()))
}

// omissionMemory is for how long it is remembered that a node ignores the
// field; by then it may have been upgraded.
const omissionMemory = time.Hour

// compare holds an opened session against what was asked for. One of another
// model must serve nobody; the others are worth knowing.
func (m *Manager) compare(asked OpenRequest, got ChainSession) (serves bool) {
	mismatch := func(what, want, have string) {
		m.opts.Observe(Event{Kind: Mismatched, Result: what})
		m.opts.Logger.Warn("an opened session is not what was asked for", "session_id", got.ID, "what", what, "want", want, "have", have)
	}
	if asked.OmitProvider != "" && sameProvider(asked.OmitProvider, got.Provider) {
		m.omitIgnoredUntil.Store(m.opts.Now().Add(omissionMemory).UnixNano())
		mismatch("provider", "not "+asked.OmitProvider, got.Provider)
	}
	if length := got.EndsAt.Sub(got.OpenedAt); got.Provider != "" && length < asked.Duration-roundedDown {
		m.learnCeiling(asked, length)
		mismatch("length", asked.Duration.String(), length.String())
	}
	if got.ModelID != "" && !strings.EqualFold(got.ModelID, asked.ModelID) {
		mismatch("model", asked.ModelID, got.ModelID)
		return false
	}
	return true
}

// ceiling is the length to which the chain shortens a model's sessions. It is
// mistaken for one once two opens that asked for different lengths got the same.
type ceiling struct {
	asked, got time.Duration
	certain    bool
}

func (m *Manager) learnCeiling(asked OpenRequest, got time.Duration) {
	now := ceiling{asked: asked.Duration, got: got.Truncate(time.Second)}
	if old, ok := m.ceilings.Load(asked.ModelID); ok {
		o := old.(ceiling)
		now.certain = o.got == now.got && (o.certain || o.asked != now.asked)
	}
	m.ceilings.Store(asked.ModelID, now)
}

// ceilingOf returns the length to which the chain shortens a model's sessions,
// or zero where none is known.
func (m *Manager) ceilingOf(model string) time.Duration {
	if c, ok := m.ceilings.Load(model); ok && c.(ceiling).certain {
		return c.(ceiling).got
	}
	return 0
}

// sameProvider compares addresses, which have digits in either case.
func sameProvider(a, b string) bool { return strings.EqualFold(a, b) }
