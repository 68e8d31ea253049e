package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options are a Manager's rules. A zero duration takes the default that its
// comment names; a zero limit is no limit.
type Options struct {
	// Shared lets any user take any open session of a model. Otherwise a
	// session serves the user whom it was opened for.
	Shared bool

	// MaxPerUser is how many open sessions a user may hold at once. Idle ones of
	// other models give way to a new one, up to as many again: they stay usable
	// until their end.
	MaxPerUser   int
	OpensPerHour int // opens charged to a user in any sixty minutes
	OpensPerDay  int // the same in any 24 hours
	MaxOpen      int // open sessions of all users together

	// Paid sessions that take the place of broken ones within any sixty
	// minutes: of one user and model, and of all together. They are not charged
	// to the user. Zero is none.
	MaxReplacementsPerHour      int
	MaxReplacementsPerHourTotal int

	// Lease is how long a claim, or an open under way, outlives a replica that
	// died: 30 s, at least 1 s. A third of it is the heartbeat's interval.
	Lease time.Duration
	// CoolDown is how long a session serves nobody after its lease lapsed, or
	// after a request left it while the node was perhaps still working: 30 s.
	CoolDown time.Duration
	// Margin is the least time to its end that a session is handed out with:
	// 30 s. Where requests have lately held their sessions for longer, it is
	// twice that, up to a quarter of the session's duration.
	Margin time.Duration
	// RenewAhead is how long before its end a session in use gets a
	// successor: 60 s. It should cover Margin and an ordinary open.
	RenewAhead time.Duration
	// CloseAfter is how long after its end a session is closed: 60 s.
	// Closing before the end locks the unused stake for about a day.
	CloseAfter time.Duration
	// AcquireTimeout bounds how long a request waits for its session: 60 s.
	AcquireTimeout time.Duration
	// OpenTimeout bounds the wait for the node to open a session: 3 min.
	OpenTimeout time.Duration
	// ReconcileTimeout is how long a request waits for an open whose outcome is
	// unknown, and how long that is looked for among the wallet's sessions
	// before its place is given free: 20 s. It is looked for, more seldom,
	// until the session would have ended.
	ReconcileTimeout time.Duration
	// Linger is how long a replica keeps the lease of a session that has become free,
	// for the next request of its pool there, which then needs no database: at most 2 s.
	// Zero is off, as it is on SQLite.
	Linger time.Duration
	// DrainTimeout bounds how long the end of Run waits for requests: 30 s.
	DrainTimeout time.Duration
	// Interval is the pause between two rounds of maintenance: 5 s.
	Interval time.Duration

	// Prewarm tells, once a round, what should always have one idle session
	// ready. Nil is nothing.
	Prewarm func() []Prewarm

	// Renew is asked before a session is renewed ahead of its end: whether the
	// user still wants it, and for how long. Nil renews nothing ahead.
	Renew func(ctx context.Context, userID string) (time.Duration, bool)

	// Foreign, if set, reports whether the host itself opened a session of the
	// wallet. Such a session is never adopted.
	Foreign func(ctx context.Context, s ChainSession) (bool, error)

	// Observe, if set, is called with what happens, from many goroutines. It
	// must not block.
	Observe func(Event)

	// MaxConns bounds how many of the pool's connections are used at once; the
	// heartbeat may use one more. 0 means 16.
	MaxConns int
	// ObserveSQL, if set, is called after each database transaction with its
	// name, how long it waited for a connection, how long it took in all, and
	// its error; from many goroutines. It must not block.
	ObserveSQL func(name string, wait, took time.Duration, err error)

	Logger *slog.Logger     // nil discards
	Now    func() time.Time // nil is the wall clock; only differences count

	failpoint  func(name string) // for crash tests
	sqlTimeout time.Duration     // of a transaction, and of what is written after a request has ended: 5 s; for tests
}

// Prewarm is a model that keeps an idle session ready, opened by no user.
type Prewarm struct {
	ModelID  string
	Duration time.Duration
}

// withDefaults fills in what is zero and checks the rest.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	duration := func(d *time.Duration, name string, def, least time.Duration) {
		if *d == 0 {
			*d = def
		}
		if *d < least {
			errs = append(errs, fmt.Errorf("session: Options.%s is %v, it must be at least %v", name, *d, least))
		}
	}
	duration(&o.Lease, "Lease", 30*time.Second, time.Second)
	duration(&o.CoolDown, "CoolDown", 30*time.Second, 0)
	duration(&o.Margin, "Margin", 30*time.Second, 0)
	duration(&o.RenewAhead, "RenewAhead", 60*time.Second, 0)
	duration(&o.CloseAfter, "CloseAfter", 60*time.Second, 0)
	duration(&o.AcquireTimeout, "AcquireTimeout", 60*time.Second, time.Millisecond)
	duration(&o.OpenTimeout, "OpenTimeout", 3*time.Minute, time.Millisecond)
	duration(&o.ReconcileTimeout, "ReconcileTimeout", 20*time.Second, time.Millisecond)
	duration(&o.DrainTimeout, "DrainTimeout", 30*time.Second, time.Millisecond)
	duration(&o.Interval, "Interval", 5*time.Second, time.Millisecond)
	duration(&o.sqlTimeout, "sqlTimeout", releaseTimeout, time.Millisecond)
	duration(&o.Linger, "Linger", 0, 0)
	if o.Linger > maxLinger {
		errs = append(errs, fmt.Errorf("session: Options.Linger is %v, it must be at most %v", o.Linger, maxLinger))
	}
	for name, n := range map[string]int{"MaxReplacementsPerHour": o.MaxReplacementsPerHour, "MaxReplacementsPerHourTotal": o.MaxReplacementsPerHourTotal,
		"MaxPerUser": o.MaxPerUser, "OpensPerHour": o.OpensPerHour, "OpensPerDay": o.OpensPerDay, "MaxOpen": o.MaxOpen, "MaxConns": o.MaxConns} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("session: Options.%s is %d, it must not be negative", name, n))
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Event) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.failpoint == nil {
		o.failpoint = func(string) {}
	}
	return o, errors.Join(errs...)
}
