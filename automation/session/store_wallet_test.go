package session

import (
	"testing"
	"time"
)

// How many calls begin after a collision while so many would have ended, one
// after the other, and how close the last two are.
func TestHoldAfterCollision_LetsAQueueThrough(t *testing.T) {
	const poll = 25 * time.Millisecond // how often a replica looks whether it is its turn
	for name, tc := range map[string]struct {
		call   time.Duration
		serial int // calls
		want   int // calls
		least  time.Duration
	}{
		"a test's node":                    {280 * time.Millisecond, 35, 150, 0},
		"a node with a chain":              {3 * time.Second, 3, 8, 500 * time.Millisecond},
		"the same, for half a minute":      {3 * time.Second, 10, 50, 100 * time.Millisecond},
		"a node with a slow chain":         {8 * time.Second, 3, 8, time.Second},
		"a chain that makes no new blocks": {3 * time.Minute, 1, 1, sendTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			begun, last := 0, time.Duration(0)
			for since := time.Duration(0); since < time.Duration(tc.serial)*tc.call; begun++ {
				last = holdAfterCollision(since, tc.call)
				since += min(max(last, poll), tc.call)
			}
			t.Logf("%d calls begin within %v, the last two %v apart", begun, time.Duration(tc.serial)*tc.call, last)
			if begun < tc.want || last < tc.least {
				t.Errorf("%d calls, the last two %v apart; want %d, and %v", begun, last, tc.want, tc.least)
			}
		})
	}
	if first := holdAfterCollision(-time.Hour, time.Second); first != time.Second/2 {
		t.Errorf("the first call keeps the wallet for %v, want half a call's time", first)
	}
}
