package replica_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/internal/replica"
)

func TestFiguresCounter_CountsTheLastFiveMinutes(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	c := replica.NewFiguresCounter(func() time.Time { return at })
	c.Served(time.Millisecond)
	c.Failed("node")
	at = at.Add(4 * time.Minute)
	c.Served(2 * time.Minute)
	c.Failed("node")
	c.Failed("session")
	overhead := make([]int64, len(replica.OverheadBounds)+1)
	overhead[0], overhead[len(replica.OverheadBounds)] = 1, 1
	want := replica.Figures{Served: 2, Failed: map[string]int64{"node": 2, "session": 1}, Overhead: overhead}
	if diff := cmp.Diff(want, c.Figures()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	at = at.Add(2 * time.Minute) // the first two requests are too old now
	overhead[0] = 0
	want = replica.Figures{Served: 1, Failed: map[string]int64{"node": 1, "session": 1}, Overhead: overhead}
	if diff := cmp.Diff(want, c.Figures()); diff != "" {
		t.Errorf("after two more minutes (-want +got):\n%s", diff)
	}
	c.Served(0) // replaces the counts of an old step
	at = at.Add(6 * time.Minute)
	if diff := cmp.Diff(replica.Figures{}, c.Figures()); diff != "" {
		t.Errorf("after six more minutes (-want +got):\n%s", diff)
	}
}

func TestOverheadP95(t *testing.T) {
	for name, test := range map[string]struct {
		overhead []int64
		want     time.Duration
		ok       bool
	}{
		"no counts":             {nil, 0, false},
		"zero counts":           {[]int64{0, 0}, 0, false},
		"in the first bucket":   {[]int64{100}, 950 * time.Microsecond, true},
		"on a bound":            {[]int64{95, 5}, time.Millisecond, true},
		"in the second bucket":  {[]int64{90, 10}, 1750 * time.Microsecond, true},
		"beyond the last bound": {append(make([]int64, len(replica.OverheadBounds)), 1), time.Minute, true},
		"of a newer version":    {append(make([]int64, len(replica.OverheadBounds)+5), 1), time.Minute, true},
	} {
		got, ok := replica.Figures{Overhead: test.overhead}.OverheadP95()
		if ok != test.ok || (got-test.want).Abs() > time.Nanosecond {
			t.Errorf("%s: OverheadP95() = %v, %v; want %v, %v", name, got, ok, test.want, test.ok)
		}
	}
}

func TestFigures_Add(t *testing.T) {
	sum := replica.Figures{Overhead: []int64{1}}
	for range 2 {
		sum.Add(replica.Figures{Served: 2, Failed: map[string]int64{"node": 1}, Overhead: []int64{1, 1}})
	}
	sum.Add(replica.Figures{})
	if diff := cmp.Diff(replica.Figures{Served: 4, Failed: map[string]int64{"node": 2}, Overhead: []int64{3, 2}}, sum); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
