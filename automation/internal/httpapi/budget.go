package httpapi

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// Budget is what a user's limits leave, in JSON. What has no limit is null.
type Budget struct {
	SessionsHeld  int        `json:"sessions_held"`
	SessionsMax   *int       `json:"sessions_max"`
	OpensLeftHour *int       `json:"opens_left_hour"`
	OpensLeftDay  *int       `json:"opens_left_day"`
	NextFreeAt    *time.Time `json:"next_free_at"` // null while another session may be opened
}

// NewBudget converts what a user has used.
func NewBudget(u session.Usage, now time.Time) *Budget {
	limit := func(most, left int) *int {
		if most == 0 {
			return nil
		}
		left = max(left, 0)
		return &left
	}
	b := Budget{SessionsHeld: u.Held, SessionsMax: limit(u.MaxHeld, u.MaxHeld),
		OpensLeftHour: limit(u.MaxOpensHour, u.MaxOpensHour-u.OpensHour), OpensLeftDay: limit(u.MaxOpensDay, u.MaxOpensDay-u.OpensDay)}
	if u.FreeIn > 0 {
		at := now.Add(u.FreeIn).UTC().Truncate(time.Second)
		b.NextFreeAt = &at
	}
	return &b
}
