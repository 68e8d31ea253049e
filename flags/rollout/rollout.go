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

// What errors.Is finds in this package's errors, besides those of package flags:
// ErrNotFound (there is no such flag), ErrConflict (it was just changed by hand:
// look at it first), ErrUnavailable and ErrOutcomeUnknown.
var (
	// ErrNotFound says that there is no rollout of that name.
	ErrNotFound = rollout.ErrNotFound
	// ErrIllegal says that an action is not possible in the rollout's state; the
	// error's text says which are.
	ErrIllegal = rollout.ErrIllegal
	// ErrInvalid says that a plan or an argument is not acceptable, and why.
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

// Webhook is a receiver of events, by https://www.standardwebhooks.com: each is
// a POST of {"type", "timestamp", "data"} in JSON, signed with the headers
// webhook-id, webhook-timestamp and webhook-signature. docs/webhooks.md has the
// types, and shows how to verify one. Any 2xx accepts an event; otherwise it is
// sent again, after 1 s at first and 10 min at most, for three days. Those of
// one rollout come in their order; one may come more than once, with the same
// webhook-id. A receiver gets what happens after its first Run, in whatever
// process, until no replica has known it for a week.
//
// The URL is requested as it stands, wherever it leads: that it does not lead
// into places which it should not is the operator's choice to make.
type Webhook struct {
	// Name tells receivers apart in the outbox, and stays when a URL changes.
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
// all faulty options.
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

// Run works until ctx ends: a pass at every interval, and the sending of
// webhooks. It then flushes its last counts, for which it waits up to 5 s, and
// returns when everything it started has ended.
func (c *Controller) Run(ctx context.Context) { c.engine.Run(ctx) }

// Recorder returns the recorder of the flag of that name. It is meant for a
// handful of names, whose counts the controller keeps.
func (c *Controller) Recorder(name string) *Recorder { return &Recorder{c.engine.Recorder(name)} }

// Start starts a rollout of the flag of that name with a plan in JSON as
// `automationctl rollout start --plan` reads it; nil is the default plan, which
// goes by 10 % and 50 % to 100 %. The actor, at most 200 bytes, is for the
// history. The errors are ErrInvalid, flags.ErrNotFound, ErrIllegal where one
// is under way, and the database's.
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

// Execute carries out an operator's action: pause (stay in the stage, which is
// still watched and rolled back), resume (and set the flag to the stage), approve
// (let a stage pass that needs approval), skip (advance at once), promote
// (advance to the last stage), abort (end, and switch the flag off), or restart
// (begin again with the first stage and the same users). The errors are
// ErrNotFound, ErrIllegal, ErrInvalid for the actor, flags.ErrConflict where the
// flag was changed by hand and no evaluation has seen it yet, and the database's.
func (c *Controller) Execute(ctx context.Context, name, action, actor string) error {
	_, err := c.store.Execute(ctx, name, rollout.Command{Action: rollout.Action(action), Actor: actor})
	return err
}

// Status is how a rollout stands.
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
	Detail     string // why it waits, is paused or has ended, for people
	Stage      int    // 0 is the first
	StageName  string
	Percentage flags.Percentage // of the stage
	// Watched of Hold has been watched in this stage.
	Watched, Hold time.Duration
	LookedAt      time.Time // of the latest evaluation
	// The outcomes that count, and how many of them failed, since the stage began.
	ExposedOutcomes, ExposedFailures int64
	ControlOutcomes, ControlFailures int64
}

// List returns the status of all rollouts, by name. One whose row cannot be
// read is missing and named in the error; the others are good nevertheless.
func (c *Controller) List(ctx context.Context) ([]Status, error) {
	all, err := c.store.List(ctx)
	var list []Status
	for _, s := range all {
		list = append(list, Status(s.Summary()))
	}
	return list, err
}
