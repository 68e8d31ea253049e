package httpapi

import "github.com/MorpheusAIs/gateway-automation/automation/session"

// SessionState is the state of an open session as both APIs show it: idle,
// in_use or ending.
func SessionState(s session.Info) string {
	switch {
	case s.Ending:
		return "ending"
	case s.InUse:
		return "in_use"
	}
	return "idle"
}
