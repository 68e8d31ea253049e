package session

import (
	"context"
	"math"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Usage is what a user has used of their limits. A maximum of 0 is no limit.
type Usage struct {
	Held, MaxHeld           int // open sessions; MaxHeld is twice Options.MaxPerUser
	OpensHour, MaxOpensHour int // opens charged in the last sixty minutes
	OpensDay, MaxOpensDay   int // and in the last 24 hours
	// FreeIn is when all limits allow an open again; 0 while they do.
	FreeIn time.Duration
}

// Usage reads what a user has used of their limits, by the rules that an open
// is held against.
func (m *Manager) Usage(ctx context.Context, userID string) (Usage, error) {
	return m.store.usage(ctx, userID, m.limits(), m.opts.Margin)
}

func (s *store) usage(ctx context.Context, user string, l limits, margin time.Duration) (Usage, error) {
	return sqldb.Read(ctx, s.db, "sessions.usage", func(tx *sqldb.Tx) (Usage, error) {
		u := Usage{MaxHeld: mostHeld(l.perUser), MaxOpensHour: l.perHour, MaxOpensDay: l.perDay}
		for _, c := range []struct {
			have  *int
			most  int
			query string
			arg   float64
		}{
			{&u.Held, mostHeld(l.perUser), heldQuery, margin.Seconds()},
			{&u.OpensHour, l.perHour, chargedQuery, time.Hour.Seconds()},
			{&u.OpensDay, l.perDay, chargedQuery, (24 * time.Hour).Seconds()},
		} {
			var counted struct {
				N    int     `db:"n"`
				Free float64 `db:"free"` // seconds until the limit allows one more, if it is used up
			}
			if err := tx.Get(&counted, c.query, user, c.arg, c.most); err != nil {
				return Usage{}, err
			}
			*c.have = counted.N
			if c.most > 0 && counted.N >= c.most {
				u.FreeIn = max(u.FreeIn, max(time.Second, time.Duration(math.Ceil(counted.Free))*time.Second))
			}
		}
		return u, nil
	})
}

const (
	// $1 user, $2 the margin that quota counts with, $3 unused.
	heldQuery = `SELECT count(*) AS n, COALESCE(MIN({until ends_at}) - $2, 5) AS free FROM automation_sessions s
		WHERE user_id = $1 AND ` + counted + ` AND (ends_at IS NULL OR ends_at > {in $2}) AND $3 >= 0
			AND reason NOT IN ('` + reasonBroken + `', '` + reasonExpired + `') AND NOT EXISTS (SELECT 1 FROM automation_sessions old
			WHERE old.id = s.replaces AND old.state IN ('` + stateOpen + `', '` + stateEnding + `') AND old.ends_at > {now})`
	// $1 user, $2 the window, $3 the limit: it allows one more when its $3-th
	// newest open leaves the window.
	chargedQuery = `SELECT count(*) AS n, COALESCE(MIN(CASE WHEN place <= $3 THEN age END), 0) AS free FROM (
		SELECT {until charged_at} + $2 AS age, row_number() OVER (ORDER BY charged_at DESC) AS place FROM automation_sessions
		WHERE user_id = $1 AND user_id <> '' AND state <> '` + stateFailed + `' AND charged_at > {in -$2}) charged`
)
