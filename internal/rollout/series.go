package rollout

import (
	"context"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// Point has the counts of one period of a rollout.
type Point struct {
	At           time.Time `json:"at"` // the end of the period
	Exposed      Counts    `json:"exposed"`
	Control      Counts    `json:"control"`
	FailingUsers int64     `json:"failing_users"` // the maximum over its minutes
}

// maxPoints is about how many points a series has at most.
const maxPoints = 300

// Series returns the evidence of the last span, the oldest first: a point for each
// minute, or for each of about 300 equal periods of a longer span. Periods without
// evidence have no point. An unknown rollout has none.
func (s *Store) Series(ctx context.Context, name string, span time.Duration) ([]Point, error) {
	type row struct {
		Minute   sqldb.Time           `db:"minute"`
		Run      int64                `db:"stage_run"`
		Evidence sqldb.JSON[Evidence] `db:"evidence"`
		Users    int64                `db:"failing_users"`
	}
	rows, err := sqldb.Read(ctx, s.db, "rollout.series", func(tx *sqldb.Tx) ([]row, error) {
		var rows []row
		return rows, tx.Select(&rows, `SELECT minute, stage_run, evidence, failing_users FROM automation_rollout_minutes
			WHERE rollout = $1 AND minute > {in -$2} ORDER BY minute`, name, span.Seconds())
	})
	if err != nil {
		return nil, fmt.Errorf("rollout: series(%q): %w", name, err)
	}
	width := max(time.Minute, (span / maxPoints).Round(time.Minute))
	var points []Point
	var before Evidence // of the row before, which counts from the beginning of its stage run
	for i, r := range rows {
		if i > 0 && rows[i-1].Run != r.Run {
			before = Evidence{}
		}
		added := r.Evidence.V.minus(before)
		before = r.Evidence.V
		if i == 0 { // it has counts from before the span
			continue
		}
		if end := r.Minute.Truncate(width).Add(width); len(points) == 0 || points[len(points)-1].At.Before(end) {
			points = append(points, Point{At: end})
		}
		p := &points[len(points)-1]
		p.Exposed, p.Control = p.Exposed.plus(added.Exposed), p.Control.plus(added.Control)
		p.FailingUsers = max(p.FailingUsers, r.Users)
	}
	return points, nil
}

func (c Counts) plus(d Counts) Counts { return c.minus(Counts{}.minus(d)) }
