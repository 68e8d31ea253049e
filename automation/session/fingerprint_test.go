package session

import (
	"testing"
	"time"
)

func TestFingerprints_MeetNeitherEachOtherNorARoundNumber(t *testing.T) {
	for _, duration := range []time.Duration{300 * time.Second, 301 * time.Second, 303 * time.Second, 1800 * time.Second, time.Hour, 24 * time.Hour} {
		seen := map[int64]bool{}
		list := fingerprints(duration, 0, 500)
		for i, f := range list {
			if f <= int64(duration/time.Second) || i == 0 && f > int64(duration/time.Second)+fingerprintStep {
				t.Errorf("%v: number %d is %d s", duration, i, f)
			}
			for rounded := f - 2; rounded <= f+1; rounded++ { // what the chain may make of it
				if rounded%5 == 0 || seen[rounded] {
					t.Errorf("%v: %d s, which may become of %d, is round or another's", duration, rounded, f)
				}
				seen[rounded] = true
			}
		}
		if len(list) != 500 {
			t.Errorf("%v: %d lengths, want 500", duration, len(list))
		}
	}
}

func TestFingerprints_StayBelowTheChainsCeiling(t *testing.T) {
	const ceiling = 2 * time.Hour
	for _, duration := range []time.Duration{time.Hour, ceiling - 10*time.Second, ceiling, 24 * time.Hour} {
		for _, f := range fingerprints(duration, ceiling, 64) {
			if f > int64(ceiling/time.Second) || f%fingerprintStep != fingerprintRest {
				t.Errorf("%v: %d s with a ceiling of %v", duration, f, ceiling)
			}
		}
	}
	if list := fingerprints(time.Hour, 4*time.Second, 64); len(list) != 1 || list[0] != 3 {
		t.Errorf("a ceiling of 4 s leaves %v, want 3 alone", list)
	}
}

func TestHasFingerprint_RecognisesWhatAnIntentOpened(t *testing.T) {
	called := time.Unix(1_800_000_000, 0)
	const asked = 3603 * time.Second
	at := func(model string, after, length time.Duration) ChainSession {
		return ChainSession{ID: "a", ModelID: model, OpenedAt: called.Add(after), EndsAt: called.Add(after + length)}
	}
	for name, tc := range map[string]struct {
		session ChainSession
		want    bool
	}{
		"a second shorter, as the chain makes it": {at("m", time.Second, asked-time.Second), true},
		"two seconds shorter":                     {at("m", time.Second, asked-2*time.Second), true},
		"exactly":                                 {at("m", time.Second, asked), true},
		"a second longer":                         {at("m", time.Second, asked+time.Second), true},
		"the model in another letter case":        {at("M", time.Second, asked), true},
		"opened before, by the chain's clock":     {at("m", -time.Minute, asked), true},
		"three seconds shorter":                   {at("m", time.Second, asked-3*time.Second), false},
		"two seconds longer":                      {at("m", time.Second, asked+2*time.Second), false},
		"what somebody typed":                     {at("m", time.Second, time.Hour), false},
		"another model":                           {at("n", time.Second, asked), false},
		"opened long before":                      {at("m", -3*time.Minute, asked), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hasFingerprint(tc.session, "m", asked, called); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
