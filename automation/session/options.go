package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Options configure a Manager. A zero duration stands for the default that its
// comment names. A zero limit means no limit, except for the replacements.
type Options struct {
	// Shared lets any user take any open session of a model. Otherwise a
	// session serves only the user for whom it was opened.
	Shared bool

	// MaxPerUser is how many open sessions a user may hold at once. Idle sessions
	// of other models do not prevent a new one, until the user has 2*MaxPerUser:
	// they stay usable until their end.
	MaxPerUser   int
	OpensPerHour int // opens charged to a user in any 60 minutes
	OpensPerDay  int // opens charged to a user in any 24 hours
	MaxOpen      int // open sessions of all users together

	// How many sessions may be opened in the place of broken ones in any 60
	// minutes: for one user and model, and for all together. They are paid, but
	// not charged to the user. Zero means none.
	MaxReplacementsPerHour      int
	MaxReplacementsPerHourTotal int

	// Lease is how long a claim, or an open under way, stays reserved after its
	// replica has died: 30 s by default, at least 1 s. The heartbeat's interval is
	// a third of it.
	Lease time.Duration
	// CoolDown is how long a session serves nobody after its lease has lapsed, or
	// after a request has left while the node may still be working for it: 30 s.
	CoolDown time.Duration
	// Margin is how long before its end a session is handed out for the last
	// time: 30 s. It grows to twice the time for which requests typically hold a
	// session, up to a quarter of the session's duration.
	Margin time.Duration
	// RenewAhead is how long before its end a session in use gets a
	// successor: 60 s. It should cover Margin and the time of an ordinary open.
	RenewAhead time.Duration
	// CloseAfter is how long after its end a session is closed: 60 s.
	// Closing before the end locks the unused stake for about a day.
	CloseAfter time.Duration
	// AcquireTimeout bounds how long a request waits for its session: 60 s.
	AcquireTimeout time.Duration
	// OpenTimeout bounds the wait for the node to open a session: 3 min.
	OpenTimeout time.Duration
	// ReconcileTimeout is how long a request waits for an open whose outcome is
	// unknown: 20 s. If the session is not found in the wallet within that time,
	// its place among the open sessions is free again, and it is looked for once a
	// minute until it would have ended.
	ReconcileTimeout time.Duration
	// Linger is how long a replica keeps the lease of a session after its request
	// has ended. The next request of the replica that the session can serve then
	// needs no database. At most 2 s; zero turns it off, and so does SQLite.
	Linger time.Duration
	// DrainTimeout bounds how long Run waits for requests before it returns: 30 s.
	DrainTimeout time.Duration
	// Interval is the pause between two rounds of maintenance: 5 s.
	Interval time.Duration

	// Prewarm is called in each round of maintenance and returns the models that
	// should always have one idle session ready. Nil means none.
	Prewarm func() []Prewarm

	// Renew is called before a session gets a successor ahead of its end. It
	// returns the successor's duration, and whether the user still wants one. Nil
	// renews nothing.
	Renew func(ctx context.Context, userID string) (time.Duration, bool)

	// Foreign, if set, reports whether the host itself opened a session of the
	// wallet. Such a session is never adopted.
	Foreign func(ctx context.Context, s ChainSession) (bool, error)

	// Observe, if set, is called with each Event, from many goroutines. It must
	// not block.
	Observe func(Event)

	// MaxConns bounds how many of the pool's connections are used at once; the
	// heartbeat may use one more. Zero means 16.
	MaxConns int
	// ObserveSQL, if set, is called after each database transaction with its
	// name, how long it waited for a connection, how long it took in all, and
	// its error. It is called from many goroutines and must not block.
	ObserveSQL func(name string, wait, took time.Duration, err error)

	Logger *slog.Logger     // nil discards all records
	Now    func() time.Time // nil means time.Now

	failpoint  func(name string) // for crash tests
	sqlTimeout time.Duration     // bounds a transaction, and a write after a request has ended: 5 s; only tests set it
}

// Prewarm is a model of which an idle session is kept ready, charged to no user
// until one takes it.
type Prewarm struct {
	ModelID  string
	Duration time.Duration
}

// withDefaults fills in the defaults and checks the values.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	duration := func(d *time.Duration, name string, value, minimum time.Duration) {
		if *d == 0 {
			*d = value
		}
		if *d < minimum {
			errs = append(errs, fmt.Errorf("session: Options.%s is %v, it must be at least %v", name, *d, minimum))
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
