package session

import (
	"slices"
	"testing"
)

func TestProviders_KeepWhatIsNotedDuringARead(t *testing.T) {
	var p providers
	begun := p.beginRead()
	for range 3 {
		p.add("0xp", "alice")
	}
	if len(p.added) != 1 {
		t.Errorf("one failure three times is kept as %d", len(p.added))
	}
	p.set(nil, begun)
	if got := p.avoided("alice"); !slices.Equal(got, []string{"0xp"}) {
		t.Errorf("after a read that began before the failure alice avoids %q", got)
	}
	slow := p.beginRead()
	p.set([]providerFailure{{Provider: "0xq", UserID: "alice"}}, p.beginRead())
	p.set(nil, slow)
	if got := p.avoided("alice"); !slices.Equal(got, []string{"0xq"}) {
		t.Errorf("after two reads, of which the first ended last, alice avoids %q", got)
	}
}
