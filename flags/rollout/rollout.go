package rollout

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
)

// The errors that this package returns wrap one of these, or one of package
// flags: ErrNotFound (there is no such flag), ErrConflict (the flag was changed by
// hand since the last evaluation), ErrUnavailable or ErrOutcomeUnknown.
var (
	// ErrNotFound says that there is no rollout of that name.
	ErrNotFound = rollout.ErrNotFound
	// ErrIllegal says that the rollout's state does not allow an action. The
	// error's text names the actions that it allows.
	ErrIllegal = rollout.ErrIllegal
	// ErrInvalid says that a plan or an argument is not acceptable. The error's
	// text gives the reason.
	ErrInvalid = rollout.ErrInvalid
)

// Options of a Controller. The zero value works.
type Options struct {
	// MaxConns is how many of the pool's connections are used at once; 0 is 4.
	MaxConns int
	// Observe, if set, is called after each database call with its name, how
	// long it waited for one of MaxConns, how long it took in all, and its error.
	Observe func(name string, wait, took time.Duration, err error)
	// Interval is the pause between two passes, give or take a tenth; 0 is 2 s.
	Interval time.Duration
	// Webhooks receive every event.
	Webhooks []Webhook
	// HTTPClient sends the webhooks; nil is one with a time-out of 10 s that
	// follows no redirects.
	HTTPClient *http.Client
	// Logger gets transitions and errors; nil discards.
	Logger *slog.Logger
}

// Webhook is a receiver of events, as https://www.standardwebhooks.com specifies
// it. Each event is a POST of {"type", "timestamp", "data"} in JSON, signed in the
// headers webhook-id, webhook-timestamp and webhook-signature. docs/webhooks.md
// lists the types and shows how to verify a request.
//
// Any 2xx accepts an event. After any other answer it is sent again, at first
// after 1 s and later after up to 10 min, for three days. The events of one rollout
// arrive in their order. An event may arrive more than once, with the same
// webhook-id. A receiver gets the events since a Run first had it among its
// webhooks, until none has had it for a week.
//
// Where the URL leads is not checked: it may be a host of the internal network.
type Webhook struct {
	// Name identifies the receiver in the outbox; keep it when the URL changes.
	Name string
	URL  string // http or https
	// Secret signs: "whsec_" and 24 to 64 bytes in base64.
	Secret string
}

// String leaves out the secret, and the URL, which may hold one.
func (w Webhook) String() string { return rollout.Webhook(w).String() }

// Controller moves flags through their rollouts, together with the controllers
// of other replicas on the same database.
type Controller struct {
	engine *rollout.Controller
	store  *rollout.Store
}

// New returns a controller on the host's pool. It does no I/O. Its error names
// all invalid options.
func New(pool *sqlx.DB, o Options) (*Controller, error) {
	var hooks []rollout.Webhook
	for _, w := range o.Webhooks {
		hooks = append(hooks, rollout.Webhook(w))
	}
	engine, err := rollout.New(pool, rollout.Options{MaxConns: o.MaxConns, Observe: o.Observe, Interval: o.Interval,
		Webhooks: hooks, HTTPClient: o.HTTPClient, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	return &Controller{engine, engine.Store()}, nil
}

// Run makes a pass at every interval and sends webhooks until ctx ends. It then
// flushes the last counts, which takes at most 5 s, and returns when all of its
// goroutines have ended.
func (c *Controller) Run(ctx context.Context) { c.engine.Run(ctx) }

// Recorder returns the recorder of the flag of that name. The controller keeps the
// counts of every name, so use only a few names.
func (c *Controller) Recorder(name string) *Recorder { return &Recorder{c.engine.Recorder(name)} }

// Start starts a rollout of the flag of that name. The plan is JSON, the same as
// for `automationctl rollout start --plan`; nil is the default plan: the users whom
// the flag lists, 10 %, 50 %, 100 %. The actor, at most 200 bytes, is for the
// history. The errors are ErrInvalid, flags.ErrNotFound, ErrIllegal if a rollout is
// running or paused, and the database's.
func (c *Controller) Start(ctx context.Context, name string, plan []byte, actor string) error {
	p := rollout.DefaultPlan()
	if plan != nil {
		var err error
		if p, err = rollout.ParsePlan(plan); err != nil {
			return fmt.Errorf("rollout: start(%q): %w", name, err)
		}
	}
	if _, err := c.store.Create(ctx, name, p, actor); err != nil {
		return err
	}
	return c.Execute(ctx, name, string(rollout.ActionStart), actor)
}

// Execute carries out an operator's action:
//   - pause: stay in the stage; a breach still rolls back
//   - resume: continue, and set the flag to the stage
//   - approve: let a stage that needs approval pass
//   - skip: advance at once
//   - promote: advance to the last stage at once
//   - abort: end the rollout, and switch the flag off
//   - restart: begin again with the first stage and the same users
//
// The errors are ErrNotFound, ErrIllegal, ErrInvalid for the actor,
// flags.ErrConflict if the flag was changed by hand since the last evaluation, and
// the database's.
func (c *Controller) Execute(ctx context.Context, name, action, actor string) error {
	_, err := c.store.Execute(ctx, name, rollout.Command{Action: rollout.Action(action), Actor: actor})
	return err
}

// Status is the state of a rollout.
type Status struct {
	Name string
	// State is pending, running, paused, completed, rolled_back or aborted.
	State string
	// Reason is why it is paused or has ended: operator, breach or hand_edit.
	Reason string
	// Waiting is what a running stage waits for: time (its hold), samples (there is
	// too little traffic), approval, outage (the feature is not the cause of what
	// fails), users (too few fail for a rollback) or breach (the plan says notify).
	Waiting    string
	Detail     string // why it waits, is paused or has ended, as a text for people
	Stage      int    // 0 is the first
	StageName  string
	Percentage flags.Percentage // of the stage
	// Watched is how much of the stage's Hold has passed under watch.
	Watched, Hold time.Duration
	LookedAt      time.Time // the latest evaluation
	// Outcomes since the stage began, and the failures among them.
	ExposedOutcomes, ExposedFailures int64
	ControlOutcomes, ControlFailures int64
}

// List returns the status of all rollouts, sorted by name. If the row of a rollout
// cannot be read, the error names it, and the list has the others.
func (c *Controller) List(ctx context.Context) ([]Status, error) {
	all, err := c.store.List(ctx)
	var list []Status
	for _, s := range all {
		list = append(list, Status(s.Summary()))
	}
	return list, err
}
