package session

import (
	"testing"
	"time"
)

func TestBestMatch_FindsWhatAnIntentOpened(t *testing.T) {
	called := time.Unix(1_800_000_000, 0)
	at := func(id, model string, after, length time.Duration) ChainSession {
		return ChainSession{ID: id, ModelID: model, OpenedAt: called.Add(after), EndsAt: called.Add(after + length)}
	}
	for name, tc := range map[string]struct {
		list  []ChainSession
		exact bool
		want  string
	}{
		"nothing":                             {nil, false, ""},
		"one a second shorter, as the chain":  {[]ChainSession{at("a", "m", time.Second, time.Hour-time.Second)}, true, "a"},
		"the model in another letter case":    {[]ChainSession{at("a", "M", time.Second, time.Hour)}, true, "a"},
		"another model":                       {[]ChainSession{at("a", "n", time.Second, time.Hour)}, false, ""},
		"opened long before":                  {[]ChainSession{at("a", "m", -3*time.Minute, time.Hour)}, false, ""},
		"opened a bit before, by its clock":   {[]ChainSession{at("a", "m", -time.Minute, time.Hour)}, false, "a"},
		"longer than asked":                   {[]ChainSession{at("a", "m", time.Second, 2*time.Hour)}, false, ""},
		"shortened by the chain":              {[]ChainSession{at("a", "m", time.Second, time.Minute)}, false, "a"},
		"shortened, but the length is wanted": {[]ChainSession{at("a", "m", time.Second, time.Minute)}, true, ""},
		"the closest in length":               {[]ChainSession{at("a", "m", time.Second, time.Minute), at("b", "m", time.Minute, time.Hour)}, false, "b"},
		"then the first opened":               {[]ChainSession{at("a", "m", time.Minute, time.Hour), at("b", "m", time.Second, time.Hour)}, false, "b"},
		"then the smallest id":                {[]ChainSession{at("b", "m", time.Second, time.Hour), at("a", "m", time.Second, time.Hour)}, false, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if i := bestMatch(tc.list, "m", time.Hour, called, tc.exact); i >= 0 {
				got = tc.list[i].ID
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAmbiguous_CountsCallsUnderWay(t *testing.T) {
	opened := time.Unix(1_800_000_000, 0)
	orphan := ChainSession{ID: "a", ModelID: "m", OpenedAt: opened, EndsAt: opened.Add(time.Hour)}
	r := row{ModelID: "m", Duration: 3600}
	r.CalledAt.Time = opened
	for name, tc := range map[string]struct {
		orphans []ChainSession
		under   []time.Time
		want    bool
	}{
		"no call":                            {[]ChainSession{orphan}, nil, false},
		"one call, one orphan":               {[]ChainSession{orphan}, []time.Time{opened.Add(-time.Second)}, true},
		"one call, begun long after":         {[]ChainSession{orphan}, []time.Time{opened.Add(time.Minute)}, false},
		"one call, two orphans":              {[]ChainSession{orphan, orphan}, []time.Time{opened}, false},
		"two calls, two orphans":             {[]ChainSession{orphan, orphan}, []time.Time{opened, opened}, true},
		"one call, another orphan elsewhere": {[]ChainSession{orphan, {ID: "b", ModelID: "n", OpenedAt: opened, EndsAt: opened.Add(time.Hour)}}, []time.Time{opened}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := ambiguous(tc.orphans, 0, r, tc.under); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
