package session

import (
	"slices"
	"testing"
)

func TestProviders_KeepAFailureAddedDuringARead(t *testing.T) {
	var p providers
	begun := p.beginRead()
	for range 3 {
		p.add("0xp", "alice")
	}
	if len(p.added) != 1 {
		t.Errorf("one failure added three times is kept %d times, want once", len(p.added))
	}
	p.set(nil, begun)
	if got := p.avoided("alice"); !slices.Equal(got, []string{"0xp"}) {
		t.Errorf("after a read that began before the failure, alice avoids %q, want 0xp", got)
	}
	slow := p.beginRead()
	p.set([]providerFailure{{Provider: "0xq", UserID: "alice"}}, p.beginRead())
	p.set(nil, slow)
	if got := p.avoided("alice"); !slices.Equal(got, []string{"0xq"}) {
		t.Errorf("after an older read ended last, alice avoids %q, want 0xq of the newer read", got)
	}
}
