package automation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"golang.org/x/sync/errgroup"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/chat"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// FlagName is the row of feature_flags that says who has the feature.
const FlagName = "automation"

// Node is what the module asks of a Morpheus node; *proxyrouter.Client is one.
type Node interface {
	session.Provider
	Forward(ctx context.Context, r proxyrouter.ChatRequest) (*http.Response, error)
	RatedBids(ctx context.Context, modelID string) ([]proxyrouter.Bid, error)
	Ready() error
}

// Options are what a Module can do without.
type Options struct {
	// Node replaces the client that is made from the Config's PROXY_ROUTER_…
	Node Node
	// Logger gets what operators should know; nil discards.
	Logger *slog.Logger
	// Observer receives what the module does, for metrics.
	Observer Observer
	// Users counts the host's users, for the report's adoption; nil leaves
	// that criterion open.
	Users func(ctx context.Context) (int, error)
	// Now is the clock that measures for the Observer; nil is the wall clock.
	Now func() time.Time
}

// Module is the automation feature in one process.
type Module struct {
	cfg        Config
	log        *slog.Logger
	observer   Observer
	users      func(context.Context) (int, error)
	now        func() time.Time
	pool       *sqlx.DB
	node       Node
	catalog    *mapping.Catalog
	flags      *flags.Watcher
	store      *flags.Store
	rollouts   *rollout.Store
	controller *rollout.Controller
	recorder   *rollout.Recorder
	settings   *settings.Cache
	stored     *settings.Store
	sessions   *session.Manager
	feedback   *feedback.Store
	cleaner    *cleanup.Cleaner
	chat       *chat.Service
	api        http.Handler
	running    atomic.Bool
	unknown    map[string]bool // names to be kept ready that have been logged as unknown
}

// New wires a Module on the host's pool; it does no I/O. The tables must be
// there by the time they are needed: see package schema. Its error names all
// that is wrong.
func New(cfg Config, db *sqlx.DB, identify Identify, opts Options) (*Module, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if db == nil || identify == nil {
		return nil, errors.New("automation: New needs a database and a function that identifies users")
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	m := &Module{cfg: cfg, log: log, observer: opts.Observer.withDefaults(), users: opts.Users, now: opts.Now, pool: db, node: opts.Node, unknown: map[string]bool{}}
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	if m.node == nil {
		client, err := newNode(cfg, log)
		check(err)
		m.node = client
	}
	var err error
	m.catalog, err = mapping.New(mapping.Options{
		File: cfg.MappingsFile, UnknownIsDefault: cfg.UnknownModel == UnknownModelDefault, FeedURL: cfg.ActiveModelsURL,
		FileInterval: cfg.MappingReloadInterval, FeedInterval: cfg.FeedRefreshInterval, Logger: log,
	})
	check(err)

	// Flags and rollouts have connections of their own: switching off must work
	// when the sessions use up all of theirs.
	flagConns := max(cfg.MaxDBConnections/8, 1)
	m.store = flags.NewStore(db, flags.StoreOptions{MaxConns: flagConns, Observe: m.observer.SQL})
	var masterOff []string
	if !cfg.FeatureEnabled {
		masterOff = []string{FlagName}
	}
	m.flags = flags.NewWatcher(m.store, flags.Options{MasterOff: masterOff, Interval: cfg.FlagPollInterval, File: cfg.FlagSnapshotFile, Logger: log})

	m.controller, err = rollout.New(db, rollout.Options{MaxConns: flagConns, Observe: m.observer.SQL,
		Interval: cfg.RolloutInterval, Webhooks: webhooks(cfg), Logger: log})
	check(err)
	if err == nil {
		m.rollouts, m.recorder = m.controller.Store(), m.controller.Recorder(FlagName)
	}

	settingsConns := max(cfg.MaxDBConnections/4, 1)
	m.stored, err = settings.NewStore(db, settings.Defaults{IsEnabled: cfg.DefaultOptIn,
		SessionDuration: cfg.DefaultSessionDuration, Min: cfg.MinSessionDuration, Max: cfg.MaxSessionDuration},
		settings.StoreOptions{MaxConns: settingsConns, Observe: m.observer.SQL})
	check(err)
	m.settings = settings.NewCache(m.stored, settings.CacheOptions{Logger: log})
	m.sessions, err = session.New(db, m.node, session.Options{
		MaxConns: max(cfg.MaxDBConnections-flagConns-settingsConns, 1), ObserveSQL: m.observer.SQL,
		Shared:     cfg.SessionScope == ScopeShared,
		MaxPerUser: cfg.MaxSessionsPerUser, OpensPerHour: cfg.MaxOpensPerHour, OpensPerDay: cfg.MaxOpensPerDay, MaxOpen: cfg.MaxOpenSessions,
		Lease: cfg.SessionLease, Margin: none(cfg.SessionMargin), RenewAhead: none(cfg.RenewAhead), CloseAfter: none(cfg.CloseAfter),
		AcquireTimeout: cfg.AcquireTimeout, DrainTimeout: none(cfg.DrainTimeout), Interval: cfg.SweepInterval,
		// The client's own deadline comes first: only then does it know that
		// it was the node that took too long.
		OpenTimeout: cfg.OpenTimeout + 10*time.Second,
		Renew:       m.renew, Prewarm: m.prewarm, Observe: m.observer.Session, Logger: log,
	})
	check(err)
	m.feedback = feedback.NewStore(db, sqldb.Options{MaxConns: 1, Observe: m.observer.SQL})
	m.cleaner, err = m.newCleaner(sqldb.New(db, sqldb.Options{MaxConns: settingsConns, Observe: m.observer.SQL}))
	check(err)
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	m.newHandlers(identify)
	return m, nil
}

// webhooks are told of the rollouts' events.
func webhooks(cfg Config) []rollout.Webhook {
	if cfg.RolloutWebhookURL.Reveal() == "" {
		return nil
	}
	return []rollout.Webhook{{Name: "default", URL: cfg.RolloutWebhookURL.Reveal(), Secret: cfg.RolloutWebhookSecret.Reveal()}}
}

// none lets a zero of the Config be none at all, where a zero of the options
// means their default.
func none(d time.Duration) time.Duration { return max(d, time.Millisecond) }

func newNode(cfg Config, log *slog.Logger) (*proxyrouter.Client, error) {
	if cfg.ProxyRouterURL == "" {
		return nil, errors.New("automation: PROXY_ROUTER_URL is empty; set it to the node's URL")
	}
	return proxyrouter.New(proxyrouter.Options{URL: cfg.ProxyRouterURL, Username: cfg.ProxyRouterUsername,
		Password: cfg.ProxyRouterPassword.Reveal(), OpenTimeout: cfg.OpenTimeout, Logger: log})
}

// Run works until ctx ends: it watches the flags and the mapping, keeps what
// is known of settings fresh, looks after the sessions, and cleans up. It
// returns at once if the mapping cannot be read, and otherwise when all it
// started has ended, which waits up to the drain time-out for requests in
// flight. End the HTTP server first.
func (m *Module) Run(ctx context.Context) error {
	if err := m.catalog.Load(ctx); err != nil {
		return fmt.Errorf("automation: %w", err)
	}
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("automation: Run was called twice")
	}
	defer m.running.Store(false)
	defer context.AfterFunc(ctx, func() { m.running.Store(false) })() // what drains is not ready
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.catalog.Run(ctx) })
	g.Go(func() error { return m.sessions.Run(ctx) })
	<-m.sessions.Started() // before the flags let anybody in
	g.Go(func() error { m.flags.Run(ctx); return nil })
	g.Go(func() error { m.controller.Run(ctx); return nil })
	g.Go(func() error { return m.settings.Run(ctx) })
	g.Go(func() error { return m.cleaner.Run(ctx) })
	return g.Wait()
}

// Flags are the flags as this process sees them, for the host's own.
func (m *Module) Flags() *flags.Watcher { return m.flags }

// Rollouts returns the staged rollouts: their commands, status and history.
func (m *Module) Rollouts() *rollout.Store { return m.rollouts }

// EraseUser erases everything about a user who goes. It can be repeated. Their
// open sessions serve nobody any more and stay open until they expire.
func (m *Module) EraseUser(ctx context.Context, userID string) error {
	return errors.Join(m.settings.EraseUser(ctx, userID), m.sessions.EraseUser(ctx, userID), m.feedback.Erase(ctx, userID))
}

// renew reports whether a user who uses a session still wants one, and for how long.
func (m *Module) renew(ctx context.Context, userID string) (time.Duration, bool) {
	if !m.decide(userID).On {
		return 0, false
	}
	s, err := m.settings.Get(ctx, userID)
	return s.SessionDuration, err == nil && s.IsEnabled
}

// prewarm lists the models that keep an idle session ready, while the feature
// is on for anybody at all. One goroutine calls it.
func (m *Module) prewarm() []session.Prewarm {
	f := m.flags.Flag(FlagName)
	if !m.cfg.FeatureEnabled || f == nil || !f.Enabled {
		return nil
	}
	var list []session.Prewarm
	for _, name := range m.cfg.PrewarmModels {
		model, err := m.catalog.Resolve(name, "")
		if err != nil {
			if !m.unknown[name] {
				m.log.Warn("model to be kept ready is unknown", "model", name, "error", err)
			}
			m.unknown[name] = true
			continue
		}
		delete(m.unknown, name)
		list = append(list, session.Prewarm{ModelID: model.ID, Duration: m.cfg.DefaultSessionDuration})
	}
	return list
}
