package rollout_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

func TestSeries_HasWhatEachMinuteAdded(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, h *harness) {
		now := time.Now().UTC().Truncate(time.Minute)
		insert := func(ago, run, exposed, failures, control, users int) {
			t.Helper()
			text, err := json.Marshal(rollout.Evidence{
				Exposed: rollout.Counts{Outcomes: int64(exposed), Failures: int64(failures)}, Control: rollout.Counts{Outcomes: int64(control)}})
			if err != nil {
				t.Fatal(err)
			}
			at := now.Add(-time.Duration(ago) * time.Minute)
			var minute any = at
			if h.isSQLite() {
				minute = at.Format("2006-01-02 15:04:05.000")
			}
			h.sql(`INSERT INTO automation_rollout_minutes (rollout, minute, stage_run, evidence, failing_users) VALUES ('automation', $1, $2, $3, $4)`,
				minute, run, string(text), users)
		}
		insert(5, 1, 100, 1, 200, 1)
		insert(4, 1, 150, 4, 260, 3)
		insert(2, 1, 160, 4, 300, 0)
		insert(1, 2, 10, 2, 20, 2) // the next stage's counts begin again
		got, err := h.Series(t.Context(), "automation", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		point := func(ago int, exposed, failures, control, users int64) rollout.Point {
			return rollout.Point{At: now.Add(-time.Duration(ago-1) * time.Minute), Exposed: rollout.Counts{Outcomes: exposed, Failures: failures},
				Control: rollout.Counts{Outcomes: control}, FailingUsers: users}
		}
		want := []rollout.Point{point(4, 50, 3, 60, 3), point(2, 10, 0, 40, 0), point(1, 10, 2, 20, 2)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("series (-want +got):\n%s", diff)
		}
		coarse, err := h.Series(t.Context(), "automation", 30*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var outcomes int64
		for _, p := range coarse {
			outcomes += p.Exposed.Outcomes
		}
		if len(coarse) > 2 || outcomes != 70 {
			t.Errorf("over a month: %d points with %d outcomes, want 1 or 2 with 70", len(coarse), outcomes)
		}
		if none, err := h.Series(t.Context(), "nothing", time.Hour); err != nil || len(none) != 0 {
			t.Errorf("the series of an unknown rollout is %v, %v; want an empty one", none, err)
		}
	})
}
