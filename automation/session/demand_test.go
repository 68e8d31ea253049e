package session

import (
	"testing"
	"time"
)

func TestDemand_OpensOnlyWhatShortensTheWait(t *testing.T) {
	const open = 10 * time.Second
	for name, tc := range map[string]struct {
		d    demand
		want int
	}{
		"the first request of a pool":                          {demand{waiting: 1, unpaid: 1}, 1},
		"nobody waits":                                         {demand{}, 0},
		"many first requests of unknown length":                {demand{waiting: 16, unpaid: 16}, 1},
		"many first requests, long ones":                       {demand{waiting: 4, unpaid: 4, hold: time.Minute}, 4},
		"many first requests, short ones":                      {demand{waiting: 4, unpaid: 4, hold: time.Second}, 1},
		"the first open is under way":                          {demand{waiting: 1, unpaid: 1, opening: 1, hold: time.Hour}, 0},
		"an open under way, for many long requests":            {demand{waiting: 3, unpaid: 3, opening: 1, hold: time.Minute}, 2},
		"a session is free":                                    {demand{waiting: 1, unpaid: 1, live: 1, idle: 1, hold: time.Hour}, 0},
		"a busy session, free sooner than an open would take":  {demand{waiting: 1, unpaid: 1, live: 1, hold: 5 * time.Second}, 0},
		"a busy session, free later than an open would take":   {demand{waiting: 1, unpaid: 1, live: 1, hold: 20 * time.Second}, 1},
		"a session that is about to be free":                   {demand{waiting: 1, unpaid: 1, live: 1, ending: 1, hold: time.Hour, stalled: open}, 0},
		"two requests for a session that is about to be free":  {demand{waiting: 2, unpaid: 2, live: 1, ending: 1, hold: time.Hour}, 1},
		"a queue that is served within an open":                {demand{waiting: 5, unpaid: 5, live: 1, hold: 2 * time.Second}, 0},
		"a queue that is served after an open":                 {demand{waiting: 8, unpaid: 8, live: 1, hold: 2 * time.Second}, 1},
		"the queue stood still for as long as an open takes":   {demand{waiting: 3, unpaid: 3, live: 1, stalled: open}, 1},
		"the queue stood still, and a session is being opened": {demand{waiting: 3, unpaid: 3, live: 1, opening: 1, stalled: time.Hour}, 0},
		"a session was opened for each request already":        {demand{waiting: 3, unpaid: 0, hold: time.Hour}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			tc.d.open = open
			if got := tc.d.opens(); got != tc.want {
				t.Errorf("%d opens, want %d", got, tc.want)
			}
		})
	}
}
