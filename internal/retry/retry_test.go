package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/retry"
)

func TestLoop_RunsAtOnceAndThenAtJitteredIntervals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var calls []time.Time
		retry.Loop(ctx, nil, func(context.Context) time.Duration {
			calls = append(calls, time.Now())
			return time.Minute
		})
		if len(calls) < 54 || len(calls) > 67 {
			t.Fatalf("%d calls in an hour, want about 60", len(calls))
		}
		gaps := map[time.Duration]bool{}
		for i := 1; i < len(calls); i++ {
			gap := calls[i].Sub(calls[i-1])
			gaps[gap] = true
			if gap < 54*time.Second || gap > 66*time.Second {
				t.Errorf("call %d came after %v, want 54 s to 66 s", i, gap)
			}
		}
		if len(gaps) < 10 {
			t.Errorf("only %d different gaps, want at least 10 because of jitter", len(gaps))
		}
	})
}

func TestLoop_RunsWhenTriggered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		trigger := retry.NewTrigger()
		calls, done := 0, make(chan struct{})
		go func() {
			defer close(done)
			retry.Loop(ctx, trigger, func(context.Context) time.Duration { calls++; return time.Hour })
		}()
		synctest.Wait()
		trigger.Fire()
		trigger.Fire() // may count together with the first, never blocks
		synctest.Wait()
		if calls < 2 || calls > 3 {
			t.Errorf("%d calls, want the first one and one or two triggered ones", calls)
		}
		before := calls
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if calls != before {
			t.Errorf("%d calls without a trigger before the interval, want none", calls-before)
		}
		cancel()
		<-done
	})
}

func TestLoop_DoesNothingAfterItsContextHasEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	trigger := retry.NewTrigger()
	trigger.Fire()
	retry.Loop(ctx, trigger, func(context.Context) time.Duration {
		t.Error("Loop called the function")
		return 0
	})
}

func TestLoop_CallsAgainAtOnceIfTheDurationIsNotPositive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		started, calls := time.Now(), 0
		retry.Loop(ctx, nil, func(context.Context) time.Duration {
			if calls++; calls == 100 {
				cancel()
			}
			return -time.Second * time.Duration(calls%2)
		})
		if took := time.Since(started); took != 0 {
			t.Errorf("100 calls took %v, want no time", took)
		}
	})
}

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		if err := retry.Sleep(t.Context(), time.Hour); err != nil || time.Since(started) != time.Hour {
			t.Errorf("slept %v, error %v; want an hour", time.Since(started), err)
		}
		cause := errors.New("the cause")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(cause) })
		started = time.Now()
		if err := retry.Sleep(ctx, time.Hour); !errors.Is(err, cause) || time.Since(started) != time.Minute {
			t.Errorf("slept %v, error %v; want a minute and the cause", time.Since(started), err)
		}
		if err := retry.Sleep(ctx, 0); !errors.Is(err, cause) {
			t.Errorf("in a context that has ended: error %v, want the cause", err)
		}
	})
}

func TestJitter(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{-time.Second, 0, 1, 9, time.Second, time.Hour} {
		for range 1000 {
			if got := retry.Jitter(d); got < max(0, d-d/10) || got > max(0, d+d/10+1) {
				t.Fatalf("Jitter(%v) = %v, want 90 %% to 110 %%", d, got)
			}
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failures     int
		first, limit time.Duration
		want         time.Duration
	}{
		{0, time.Second, time.Minute, time.Second},
		{1, time.Second, time.Minute, time.Second},
		{2, time.Second, time.Minute, 2 * time.Second},
		{6, time.Second, time.Minute, 32 * time.Second},
		{7, time.Second, time.Minute, time.Minute},
		{1 << 40, time.Second, time.Minute, time.Minute},
		{1, time.Hour, time.Minute, time.Minute},
	} {
		if got := retry.Backoff(c.failures, c.first, c.limit); got != c.want {
			t.Errorf("Backoff(%d, %v, %v) = %v, want %v", c.failures, c.first, c.limit, got, c.want)
		}
	}
}
