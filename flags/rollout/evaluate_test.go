package rollout

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/flags"
)

func counted(n, failures int64) Counts { return Counts{Outcomes: n, Failures: failures} }

func TestUpdate_DecidesOnNoFewerThanTwentyOutcomes(t *testing.T) {
	p := Plan{}.withDefaults()
	if _, f := (memory{}).update(p, Evidence{Exposed: counted(minOutcomes-1, minOutcomes-1)}); f.breach {
		t.Errorf("%d outcomes: %s", minOutcomes-1, f.detail)
	}
	if _, f := (memory{}).update(p, Evidence{Exposed: counted(minOutcomes, minOutcomes)}); !f.breach {
		t.Errorf("%d failures of %d are no breach", minOutcomes, minOutcomes)
	}
}

func TestUpdate_TestsTimesLikeTheErrorRate(t *testing.T) {
	slow := Evidence{Exposed: Counts{Outcomes: 100, Slow: 30}}
	db := Evidence{Exposed: Counts{Outcomes: 100, DatabaseSlow: 30}}
	p := Plan{LatencyP95: time.Second, DatabaseP95: time.Second, Limit: 20 * flags.Percent}.withDefaults()
	for _, e := range []Evidence{slow, db} {
		if _, f := (memory{}).update(p, e); !f.breach {
			t.Errorf("%+v is no breach", e)
		}
	}
	p.LatencyP95, p.DatabaseP95 = 0, 0
	for _, e := range []Evidence{slow, db} {
		if _, f := (memory{}).update(p, e); f.breach {
			t.Errorf("without a gate: %s", f.detail)
		}
	}
	p = Plan{LatencyP95: time.Second}.withDefaults()
	_, f := memory{}.update(p, slow)
	if want := "30 of 100 requests took longer than the plan's latency, 30.0 % where 5 % are allowed (e-value 5.52e+12)"; f.detail != want {
		t.Errorf("%s, want %s", f.detail, want)
	}
}

func TestUpdate_HoldsInAnOutageOfBothArms(t *testing.T) {
	p := Plan{}.withDefaults()
	var m memory
	var f finding
	var e Evidence
	add := func(n, exposed, control int64) finding {
		e.Exposed.Outcomes += n
		e.Exposed.Failures += exposed
		e.Control.Outcomes += n
		e.Control.Failures += control
		// What is remembered goes through the database.
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		m = memory{}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		m, f = m.update(p, e)
		return f
	}
	if f = add(500, 5, 5); f != (finding{}) {
		t.Fatalf("healthy: %+v", f)
	}
	for range 20 {
		if f = add(40, 36, 34); !f.outage || f.breach {
			t.Fatalf("an outage: %+v", f)
		}
	}
	for range 20 {
		f = add(40, 0, 0)
	}
	if f != (finding{}) {
		t.Fatalf("after the outage: %+v", f)
	}
	if f = add(40, 30, 1); !f.breach || f.outage {
		t.Fatalf("a fault of the feature: %+v", f)
	}
}

func TestUpdate_ComparesOnlyWithEnoughOfTheControlArm(t *testing.T) {
	p := Plan{}.withDefaults()
	if _, f := (memory{}).update(p, Evidence{Exposed: counted(40, 30), Control: counted(minControl-1, minControl-1)}); !f.breach {
		t.Errorf("%+v", f)
	}
	if _, f := (memory{}).update(p, Evidence{Exposed: counted(200, 150), Control: counted(200, 20)}); !f.breach {
		t.Errorf("the control arm fails as well, but clearly less: %+v", f)
	}
}

func TestUpdate_StartsAgainWhenCountersWereRemoved(t *testing.T) {
	p := Plan{}.withDefaults()
	m, _ := memory{}.update(p, Evidence{Exposed: counted(1000, 10)})
	m, f := m.update(p, Evidence{Exposed: counted(10, 9)})
	if f != (finding{}) || m.Seen.Outcomes != 10 {
		t.Errorf("%+v, %+v", f, m.Seen)
	}
	if _, f = m.update(p, Evidence{Exposed: counted(50, 40)}); !f.breach {
		t.Errorf("and then nothing is seen: %+v", f)
	}
}

func TestCounts_Means(t *testing.T) {
	c := Counts{Outcomes: 4, Failures: 1, LatencyUS: 6000, DatabaseUS: 400}
	if c.ErrorRate() != .25 || c.Latency() != 1500*time.Microsecond || c.DatabaseTime() != 100*time.Microsecond {
		t.Errorf("%v %v %v", c.ErrorRate(), c.Latency(), c.DatabaseTime())
	}
	if z := (Counts{}); z.ErrorRate() != 0 || z.Latency() != 0 || z.DatabaseTime() != 0 {
		t.Error("nothing has a rate")
	}
	if diff := cmp.Diff(Counts{3, 1, 2, 1, 1, 5, 6}, Counts{6, 2, 4, 2, 2, 10, 12}.minus(Counts{3, 1, 2, 1, 1, 5, 6})); diff != "" {
		t.Error(diff)
	}
}
