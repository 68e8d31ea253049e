package session

import (
	"context"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Usage is what a user has used of their limits. A maximum of 0 is no limit.
type Usage struct {
	// Held is how many open sessions count towards Options.MaxPerUser, and
	// MaxHeld is that: those in use, and idle ones as far as there is room.
	Held, MaxHeld           int
	OpensHour, MaxOpensHour int // opens charged in the last sixty minutes
	OpensDay, MaxOpensDay   int // and in the last 24 hours
	// FreeIn is when all limits allow an open again, of a model of which the user
	// has no session; 0 while they do.
	FreeIn time.Duration
}

// Usage reads what a user has used of their limits, by the rules that an open
// is held against.
func (m *Manager) Usage(ctx context.Context, userID string) (Usage, error) {
	return m.store.usage(ctx, userID, m.limits(), m.opts.Margin)
}

func (s *store) usage(ctx context.Context, user string, l limits, margin time.Duration) (Usage, error) {
	return sqldb.Read(ctx, s.db, "sessions.usage", func(tx *sqldb.Tx) (Usage, error) {
		u := Usage{MaxHeld: l.perUser, MaxOpensHour: l.perHour, MaxOpensDay: l.perDay}
		free := func(seconds float64) {
			u.FreeIn = max(u.FreeIn, time.Second, time.Duration(math.Ceil(seconds))*time.Second)
		}
		h, err := countHeld(tx, user, "", "", margin)
		if err != nil {
			return Usage{}, err
		}
		u.Held = h.Open
		if l.perUser > 0 {
			u.Held = max(h.InUse, min(h.Open, l.perUser))
			switch {
			case h.Open >= mostOpen(l.perUser):
				free(h.Free)
			case h.InUse >= l.perUser:
				free(soon.Seconds())
			}
		}
		for _, c := range []struct {
			have   *int
			most   int
			window time.Duration
		}{{&u.OpensHour, l.perHour, time.Hour}, {&u.OpensDay, l.perDay, 24 * time.Hour}} {
			var counted struct {
				N    int     `db:"n"`
				Free float64 `db:"free"` // seconds until the limit allows one more, if it is used up
			}
			if err := tx.Get(&counted, chargedQuery, user, c.window.Seconds(), c.most); err != nil {
				return Usage{}, err
			}
			*c.have = counted.N
			if c.most > 0 && counted.N >= c.most {
				free(counted.Free)
			}
		}
		return u, nil
	})
}

// chargedQuery: $1 user, $2 the window, $3 the limit, which allows one more when
// its $3-th newest open leaves the window.
const chargedQuery = `SELECT count(*) AS n, COALESCE(MIN(CASE WHEN place <= $3 THEN age END), 0) AS free FROM (
		SELECT {until charged_at} + $2 AS age, row_number() OVER (ORDER BY charged_at DESC) AS place FROM automation_sessions
		WHERE user_id = $1 AND user_id <> '' AND state <> '` + stateFailed + `' AND charged_at > {in -$2}) charged`
