package session

import (
	"testing"
	"time"
)

func TestFingerprints_AreDistinctAndNeverRound(t *testing.T) {
	for _, duration := range []time.Duration{300 * time.Second, 301 * time.Second, 303 * time.Second, 1800 * time.Second, time.Hour, 24 * time.Hour} {
		seen := map[int64]bool{}
		list := fingerprints(duration, 0, 500)
		for i, f := range list {
			if f <= int64(duration/time.Second) || i == 0 && f > int64(duration/time.Second)+fingerprintStep {
				t.Errorf("%v: fingerprint %d is %d s, want longer than the duration, and the first within a step", duration, i, f)
			}
			for rounded := f - 2; rounded <= f+1; rounded++ { // the chain may open it so much shorter or longer
				if rounded%5 == 0 || seen[rounded] {
					t.Errorf("%v: the chain may turn %d s into %d s, which is round or another fingerprint's", duration, f, rounded)
				}
				seen[rounded] = true
			}
		}
		if len(list) != 500 {
			t.Errorf("%v: %d fingerprints, want 500", duration, len(list))
		}
	}
}

func TestFingerprints_StayBelowTheChainsCeiling(t *testing.T) {
	const ceiling = 2 * time.Hour
	for _, duration := range []time.Duration{time.Hour, ceiling - 10*time.Second, ceiling, 24 * time.Hour} {
		for _, f := range fingerprints(duration, ceiling, 64) {
			if f > int64(ceiling/time.Second) || f%fingerprintStep != fingerprintRest {
				t.Errorf("%v: a fingerprint of %d s is above the ceiling of %v or has the wrong remainder", duration, f, ceiling)
			}
		}
	}
	if list := fingerprints(time.Hour, 4*time.Second, 64); len(list) != 1 || list[0] != 3 {
		t.Errorf("with a ceiling of 4 s the fingerprints are %v, want only 3", list)
	}
}

func TestHasFingerprint_RecognisesTheSessionOfAnIntent(t *testing.T) {
	called := time.Unix(1_800_000_000, 0)
	const requested = 3603 * time.Second
	at := func(model string, after, length time.Duration) ChainSession {
		return ChainSession{ID: "a", ModelID: model, OpenedAt: called.Add(after), EndsAt: called.Add(after + length)}
	}
	for name, tc := range map[string]struct {
		session ChainSession
		want    bool
	}{
		"a second shorter, as the chain opens it": {at("m", time.Second, requested-time.Second), true},
		"two seconds shorter":                     {at("m", time.Second, requested-2*time.Second), true},
		"as requested":                            {at("m", time.Second, requested), true},
		"a second longer":                         {at("m", time.Second, requested+time.Second), true},
		"the model in another letter case":        {at("M", time.Second, requested), true},
		"opened before, by the chain's clock":     {at("m", -time.Minute, requested), true},
		"three seconds shorter":                   {at("m", time.Second, requested-3*time.Second), false},
		"two seconds longer":                      {at("m", time.Second, requested+2*time.Second), false},
		"a round duration that a user chose":      {at("m", time.Second, time.Hour), false},
		"another model":                           {at("n", time.Second, requested), false},
		"opened long before":                      {at("m", -3*time.Minute, requested), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hasFingerprint(tc.session, "m", requested, called); got != tc.want {
				t.Errorf("hasFingerprint returns %t, want %t", got, tc.want)
			}
		})
	}
}
