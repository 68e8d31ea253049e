package httpapi

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Budget is what a user's limits still allow, in JSON. A field is null if its
// limit is off.
type Budget struct {
	SessionsHeld  int        `json:"sessions_held"`
	SessionsMax   *int       `json:"sessions_max"`
	OpensLeftHour *int       `json:"opens_left_hour"`
	OpensLeftDay  *int       `json:"opens_left_day"`
	NextFreeAt    *time.Time `json:"next_free_at"` // null while another session may be opened
}

// NewBudget returns the budget of a user at the time now.
func NewBudget(u session.Usage, now time.Time) *Budget {
	remaining := func(limit, used int) *int {
		if limit == 0 { // off
			return nil
		}
		n := max(limit-used, 0)
		return &n
	}
	b := Budget{SessionsHeld: u.Held, SessionsMax: remaining(u.MaxHeld, 0),
		OpensLeftHour: remaining(u.MaxOpensHour, u.OpensHour), OpensLeftDay: remaining(u.MaxOpensDay, u.OpensDay)}
	if u.FreeIn > 0 {
		at := now.Add(u.FreeIn).UTC().Truncate(time.Second)
		b.NextFreeAt = &at
	}
	return &b
}
