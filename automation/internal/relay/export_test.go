package relay

import "time"

// NewWithTimeouts returns a Relay with time-outs other than those of New.
func NewWithTimeouts(idle, drain time.Duration) *Relay {
	r := New()
	r.idleTimeout, r.drainTimeout = idle, drain
	return r
}
