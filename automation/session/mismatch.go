package session

import (
	"strings"
	"time"
)

// ignoresOmission reports whether the node ignores OpenRequest.OmitProvider. Nodes from
// before July 2026 do not know the field.
func (m *Manager) ignoresOmission() bool {
	if p, ok := m.provider.(interface{ IgnoresOmitProvider() bool }); ok && p.IgnoresOmitProvider() {
		return true
	}
	return m.opts.Now().Before(time.Unix(0, m.omitIgnoredUntil.Load()))
}

// omissionMemory is how long a replica remembers that the node ignores OmitProvider. After
// that the node may have been upgraded.
const omissionMemory = time.Hour

// compare compares an opened session with the request, and reports whether it may serve
// requests. A session of another model may not. Other differences are only logged and
// observed.
func (m *Manager) compare(asked OpenRequest, got ChainSession) (serves bool) {
	mismatch := func(field, want, have string) {
		m.opts.Observe(Event{Kind: Mismatched, Result: field})
		m.opts.Logger.Warn("an opened session is not what was asked for", "session_id", got.ID, "field", field, "want", want, "have", have)
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

// ceiling is the length to which the chain shortens a model's sessions. It is certain when
// two opens that asked for different lengths have got the same one.
type ceiling struct {
	asked, got time.Duration // of the last open that was shortened
	certain    bool
}

// learnCeiling records that an open got a shorter session than it asked for.
func (m *Manager) learnCeiling(asked OpenRequest, got time.Duration) {
	now := ceiling{asked: asked.Duration, got: got.Truncate(time.Second)}
	if old, ok := m.ceilings.Load(asked.ModelID); ok {
		o := old.(ceiling)
		now.certain = o.got == now.got && (o.certain || o.asked != now.asked)
	}
	m.ceilings.Store(asked.ModelID, now)
}

// ceilingOf returns the length to which the chain shortens a model's sessions, or zero if
// none is known.
func (m *Manager) ceilingOf(model string) time.Duration {
	if c, ok := m.ceilings.Load(model); ok && c.(ceiling).certain {
		return c.(ceiling).got
	}
	return 0
}

// sameProvider compares addresses, whose hex digits may be of either case.
func sameProvider(a, b string) bool { return strings.EqualFold(a, b) }
