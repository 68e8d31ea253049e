package session

import (
	"context"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Usage is what a user has used of their limits. A maximum of 0 means no limit.
type Usage struct {
	// Held is how many open sessions count towards MaxHeld, which is
	// Options.MaxPerUser. Idle sessions count only up to MaxHeld, because they do
	// not prevent a new one.
	Held, MaxHeld           int
	OpensHour, MaxOpensHour int // opens charged in the last 60 minutes
	OpensDay, MaxOpensDay   int // opens charged in the last 24 hours
	// FreeIn is how long until all limits allow an open again, for a model of which
	// the user has no session. It is 0 if they allow one now.
	FreeIn time.Duration
}

// Usage reads what a user has used of their limits, counted as for an open.
func (m *Manager) Usage(ctx context.Context, userID string) (Usage, error) {
	m.recall(ctx, func(r *row) bool { return r.UserID == userID }) // a lingering session is not in use
	return m.store.usage(ctx, userID, m.limits(), m.opts.Margin)
}

func (s *store) usage(ctx context.Context, user string, l limits, margin time.Duration) (Usage, error) {
	return sqldb.Read(ctx, s.db, "sessions.usage", func(tx *sqldb.Tx) (Usage, error) {
		u := Usage{MaxHeld: l.perUser, MaxOpensHour: l.perHour, MaxOpensDay: l.perDay}
		waitFor := func(seconds float64) {
			u.FreeIn = max(u.FreeIn, time.Second, time.Duration(math.Ceil(seconds))*time.Second)
		}
		c, err := countUser(tx, user, "", "", margin, l, day)
		if err != nil {
			return Usage{}, err
		}
		u.Held, u.OpensHour, u.OpensDay = c.Open, c.Hour, c.Day
		if l.perUser > 0 {
			u.Held = max(c.InUse, min(c.Open, l.perUser))
			switch {
			case c.Open >= maxOpenPerUser(l.perUser):
				waitFor(c.Free)
			case c.InUse >= l.perUser:
				waitFor(soon.Seconds())
			}
		}
		if l.perHour > 0 && c.Hour >= l.perHour {
			waitFor(c.HourFree)
		}
		if l.perDay > 0 && c.Day >= l.perDay {
			waitFor(c.DayFree)
		}
		return u, nil
	})
}
