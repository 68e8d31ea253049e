package session

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// table is a database of leases that can be away.
type table struct {
	mu     sync.Mutex
	tokens map[string]string // by id
	away   bool
	beats  int
}

func (s *table) set(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *table) heartbeat(_ context.Context, ids []string) (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.beats++; s.away {
		return nil, errors.New("away")
	}
	kept := map[string]string{}
	for _, id := range ids {
		if token, ok := s.tokens[id]; ok {
			kept[id] = token
		}
	}
	return kept, nil
}

func (s *table) release(_ context.Context, list []lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errors.New("away")
	}
	for _, l := range list {
		if s.tokens[l.id] == l.token {
			delete(s.tokens, l.id)
		}
	}
	return nil
}

// beating runs a manager's heart over a table, in a bubble.
func beating(t *testing.T, s *table, fn func(t *testing.T, k *keeper, hold func(l lease) context.Context)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		opts, err := Options{Lease: 12 * time.Second}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		m := &Manager{opts: opts, keeper: newKeeper(s, opts.Lease, time.Now)}
		ctx, cancel := context.WithCancel(t.Context())
		go m.beat(ctx)
		go m.check(ctx)
		fn(t, m.keeper, func(l lease) context.Context {
			work, lost := context.WithCancelCause(ctx)
			m.keeper.add(l, time.Now(), lost)
			return work
		})
		cancel()
		synctest.Wait()
	})
}

func TestAHeartKeepsItsLeasesForAsLongAsTheDatabaseIsThere(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine"}}
	beating(t, s, func(t *testing.T, _ *keeper, hold func(lease) context.Context) {
		work := hold(lease{"row", "mine"})
		time.Sleep(10 * time.Minute)
		if work.Err() != nil {
			t.Errorf("it lost its lease: %v", context.Cause(work))
		}
	})
	if s.beats < 100 || s.beats > 10*60/4+1 {
		t.Errorf("%d beats in ten minutes, want one each four seconds", s.beats)
	}
}

func TestWorkEndsBeforeItsLeaseDoes(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine"}, away: true}
	beating(t, s, func(t *testing.T, _ *keeper, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after < 10*time.Second || after > 11*time.Second || !errors.Is(context.Cause(work), ErrLeaseLost) {
			t.Errorf("told %v after %v that a lease of 12 s is lost", context.Cause(work), after)
		}
	})
}

func TestALeaseThatAnotherHasIsLostAtTheNextBeat(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "another's"}}
	beating(t, s, func(t *testing.T, _ *keeper, hold func(lease) context.Context) {
		begun := time.Now()
		work := hold(lease{"row", "mine"})
		<-work.Done()
		if after := time.Since(begun); after > 5*time.Second {
			t.Errorf("told after %v", after)
		}
	})
}

func TestWhatCouldNotBeGivenBackIsGivenBackLater(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "mine"}, away: true}
	beating(t, s, func(t *testing.T, k *keeper, hold func(lease) context.Context) {
		work := hold(lease{"row", "mine"})
		if k.giveBack(t.Context(), lease{"row", "mine"}) == nil {
			t.Error("given back to a database that is away")
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait: %v, want that something is left", err)
		}
		s.set(false)
		if err := k.wait(t.Context()); err != nil || len(s.tokens) != 0 {
			t.Errorf("wait: %v, still leased: %v", err, s.tokens)
		}
		if work.Err() != nil {
			t.Errorf("what was given back was told %v", context.Cause(work))
		}
	})
}

func TestALeaseTakenAnewSurvivesABeatThatHasNotSeenIt(t *testing.T) {
	s := &table{tokens: map[string]string{"row": "old"}}
	k := newKeeper(&during{table: s, fn: func(k *keeper) {
		k.drop(lease{"row", "old"})
		k.add(lease{"row", "new"}, time.Now().Add(-time.Second), func(error) { t.Error("the new lease was lost") })
	}}, 12*time.Second, time.Now)
	k.store.(*during).k = k
	k.add(lease{"row", "old"}, time.Now(), func(error) {})
	if err := k.beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k.check() != 0 || len(k.held) != 1 {
		t.Error("the new lease is gone")
	}
	if n := k.abandon(ErrNotRunning); n != 1 {
		t.Errorf("%d abandoned", n)
	}
}

// during does something while a beat is under way.
type during struct {
	*table
	k  *keeper
	fn func(*keeper)
}

func (d *during) heartbeat(ctx context.Context, ids []string) (map[string]string, error) {
	kept, err := d.table.heartbeat(ctx, ids)
	d.fn(d.k)
	d.k.held["row"].lost = func(error) {} // from here on only abandon may tell it
	return kept, err
}

func TestALineLetsOneAtATimeAsk(t *testing.T) {
	now := time.Now()
	ls := &lines{now: func() time.Time { return now }}
	p := pool{"alice", "model"}
	leads := func(l *line, w *waiter, want bool, wanted int) {
		t.Helper()
		if got, n, _ := l.lead(w); got != want || n != wanted {
			t.Errorf("leads %v and wants %d, want %v and %d", got, n, want, wanted)
		}
	}
	l, first := ls.join(p, "alice", "")
	_, second := ls.join(p, "alice", "")
	if other, _ := ls.join(p, "alice", "0xomit"); other == l {
		t.Error("those who omit a provider wait in the same line")
	}
	leads(l, second, false, 0)
	leads(l, first, true, 2)
	l.begin()
	leads(l, first, true, 1)
	l.ended(nil)
	leads(l, first, true, 2)
	l.capped()
	leads(l, first, true, 0)
	now = now.Add(holdCapped)
	leads(l, first, true, 2)

	l.begin()
	refusal := errors.New("no bids")
	l.ended(refusal)
	if _, n, err := l.lead(first); n != 0 || !errors.Is(err, refusal) {
		t.Errorf("after a refusal it wants %d, told %v", n, err)
	}
	leads(l, first, true, 0)
	now = now.Add(holdRefused)
	leads(l, first, true, 2)

	for len(second.wake) > 0 {
		<-second.wake
	}
	l.leave(first)
	if len(second.wake) != 1 {
		t.Error("nobody told the second that it leads now")
	}
	leads(l, second, true, 1)
	l.fail(refusal)
	l.fail(refusal)
	if err := <-second.failed; !errors.Is(err, refusal) {
		t.Errorf("told %v", err)
	}
	l.leave(second)
	if len(ls.pools[p]) != 1 || !ls.crowded(p) || ls.crowded(pool{"bob", "model"}) {
		t.Errorf("lines left: %v", ls.pools)
	}
}

func TestAnIntentFindsWhatItOpened(t *testing.T) {
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

func TestAnOrphanMayBelongToACallUnderWay(t *testing.T) {
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

func TestAPauseGrowsToItsMost(t *testing.T) {
	for attempt, want := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second} {
		if got := backoff(attempt, time.Second, 8*time.Second); got < want*3/4 || got > want*5/4 {
			t.Errorf("attempt %d: %v, want about %v", attempt, got, want)
		}
	}
	if got := backoff(1000, time.Second, time.Minute); got > 75*time.Second {
		t.Errorf("attempt 1000: %v", got)
	}
}

func TestWhatANodeSaysIsKeptShortAndStorable(t *testing.T) {
	long := make([]byte, 2000)
	for i := range long {
		long[i] = 'x'
	}
	long[0], long[1], long[499], long[500] = 0, 0xff, 0xc3, 0xa4
	if got := clip(errors.New(string(long))); len(got) > 500 || got[0] != 'x' {
		t.Errorf("got %d bytes: %q…", len(got), got[:5])
	}
}
