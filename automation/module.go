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
	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/feedback"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/mapping"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// FlagName is the name of the row of feature_flags that decides who has the feature.
const FlagName = "automation"

// Options are the optional dependencies of a Module. The zero value works.
type Options struct {
	// Node replaces the client that New makes from the Config's PROXY_ROUTER_… fields.
	Node Node
	// HTTPClient sends the requests to the node, the live feed and the webhooks,
	// with the host's proxies, TLS and dialers. Nil means clients of the
	// module's own.
	HTTPClient *http.Client
	// Logger receives messages for operators; nil discards them.
	Logger *slog.Logger
	// Observer is called with what the module does, for metrics.
	Observer Observer
	// Users counts the host's users, from which the report computes the adoption.
	// With nil the report does not evaluate that criterion.
	Users func(ctx context.Context) (int, error)
	// Foreign reports whether the host itself opened a session of the wallet,
	// without the module. Such a session is never adopted. Nil means that the host
	// opens none.
	Foreign func(ctx context.Context, s session.ChainSession) (bool, error)
	// Now is the clock for measurements and for what expires in memory; nil is the
	// wall clock.
	Now func() time.Time

	settingsTimeout time.Duration // settings.StoreOptions.ReadTimeout, for tests on busy machines
}

// Module is the automation feature in one process.
type Module struct {
	cfg         Config
	log         *slog.Logger
	observer    Observer
	users       func(context.Context) (int, error)
	now         func() time.Time
	pool        *sqlx.DB
	node        Node
	catalog     *mapping.Catalog
	flags       *flags.Watcher
	store       *flags.Store
	rollouts    *rollout.Store
	controller  *rollout.Controller
	recorder    *rollout.Recorder
	settings    *settings.Store
	sessions    *session.Manager
	feedback    *feedback.Store
	cleaner     *cleanup.Cleaner
	replicas    *replica.Store
	reports     *report.Maker
	requests    *replica.Counter
	failures    *replica.Failures
	figures     *replica.FiguresCounter
	fleet       *fleet.Store
	defaultPlan rollout.Plan // by its latency limits requests count as slow
	chat        *chat.Service
	api         http.Handler
	running     atomic.Bool
	recent      recentFaults
	unknown     map[string]bool // names of PrewarmModels already logged as unknown
}

// New wires a Module on the host's pool; it does no I/O. Package schema creates the
// tables, which must exist when Load or Run needs them. The error names everything
// that is wrong at once.
func New(cfg Config, db *sqlx.DB, identify Identify, opts Options) (*Module, error) {
	errs := []error{cfg.check()}
	if db == nil {
		errs = append(errs, errors.New("automation: New needs the host's pool of connections, a *sqlx.DB"))
	}
	if identify == nil {
		errs = append(errs, errors.New("automation: New needs a function that identifies the user of a request"))
	}
	if opts.Node == nil && cfg.FeatureEnabled && cfg.ProxyRouterURL == "" {
		errs = append(errs, errors.New("automation: PROXY_ROUTER_URL is empty: set it to the Morpheus node's URL, or switch AUTOMATION_FEATURE_ENABLED off"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if warning := sqldb.DriverWarning(db); warning != "" {
		log.Warn(warning)
	}
	m := &Module{cfg: cfg, log: log, observer: opts.Observer.withDefaults(), users: opts.Users, now: opts.Now, pool: db, unknown: map[string]bool{}}
	if err := errors.Join(m.newNode(opts), m.newCatalog(opts), m.newFlags(opts), m.newStores(opts)); err != nil {
		return nil, err
	}
	m.newHandlers(identify)
	return m, nil
}

func (m *Module) newCatalog(opts Options) (err error) {
	m.catalog, err = mapping.New(mapping.Options{
		File: m.cfg.MappingsFile, UnknownIsDefault: m.cfg.UnknownModel == UnknownModelDefault, FeedURL: m.cfg.ActiveModelsURL,
		FileInterval: m.cfg.MappingReloadInterval, FeedInterval: m.cfg.FeedRefreshInterval, Registry: registryOf(m.node), HTTPClient: opts.HTTPClient, Logger: m.log,
	})
	return err
}

// The module's connections are divided, so that the feature can be switched off
// while sessions use all of theirs. Flags and rollouts have flagConns each.
func (m *Module) flagConns() int     { return max(m.cfg.MaxDBConnections/8, 1) }
func (m *Module) settingsConns() int { return max(m.cfg.MaxDBConnections/4, 1) }
func (m *Module) sessionConns() int {
	return max(m.cfg.MaxDBConnections-2*m.flagConns()-m.settingsConns(), 1)
}

func (m *Module) newFlags(opts Options) (err error) {
	m.store = flags.NewStore(m.pool, flags.StoreOptions{MaxConns: m.flagConns(), Observe: m.observer.SQL})
	var masterOff []string
	if !m.cfg.FeatureEnabled {
		masterOff = []string{FlagName}
	}
	m.flags = flags.NewWatcher(m.store, flags.Options{MasterOff: masterOff, Interval: m.cfg.FlagPollInterval, File: m.cfg.FlagSnapshotFile, Logger: m.log})
	m.controller, err = rollout.New(m.pool, rollout.Options{MaxConns: m.flagConns(), Observe: m.observer.SQL,
		Interval: m.cfg.RolloutInterval, Webhooks: webhooks(m.cfg), HTTPClient: opts.HTTPClient, Logger: m.log})
	if err != nil {
		return err
	}
	m.rollouts, m.recorder = m.controller.Store(), m.controller.Recorder(FlagName)
	return nil
}

// newStores makes everything that reads or writes the database, except the flags
// and the rollouts.
func (m *Module) newStores(opts Options) (err error) {
	m.settings, err = settings.NewStore(m.pool, settings.Defaults{IsEnabled: m.cfg.DefaultOptIn,
		SessionDuration: m.cfg.DefaultSessionDuration, Min: m.cfg.MinSessionDuration, Max: m.cfg.MaxSessionDuration},
		settings.StoreOptions{MaxConns: m.settingsConns(), Observe: m.observer.SQL, ReadTimeout: opts.settingsTimeout, Logger: m.log})
	if err != nil {
		return err
	}
	m.sessions, err = session.New(m.pool, m.node, m.sessionOptions(opts))
	if err != nil {
		return err
	}
	m.replicas, m.requests, m.defaultPlan = replica.NewStore(m.pool, m.observer.SQL), replica.NewCounter(m.now), rollout.DefaultPlan()
	m.failures = replica.NewFailures()
	m.figures, m.fleet = replica.NewFiguresCounter(m.now), fleet.NewStore(m.pool, m.observer.SQL, m.OptInCounts, m.now)
	m.feedback = feedback.NewStore(m.pool, sqldb.Options{MaxConns: 1, Observe: m.observer.SQL})
	m.reports = report.New(m.pool, m.rollouts, sqldb.Options{MaxConns: 2, Observe: m.observer.SQL})
	m.cleaner, err = m.newCleaner(sqldb.New(m.pool, sqldb.Options{MaxConns: m.settingsConns(), Observe: m.observer.SQL}))
	return err
}

func (m *Module) sessionOptions(opts Options) session.Options {
	cfg := m.cfg
	return session.Options{
		MaxConns: m.sessionConns(), ObserveSQL: m.observer.SQL,
		Shared:     cfg.SessionScope == ScopeShared,
		MaxPerUser: cfg.MaxSessionsPerUser, OpensPerHour: cfg.MaxOpensPerHour, OpensPerDay: cfg.MaxOpensPerDay, MaxOpen: cfg.MaxOpenSessions,
		// All users together may replace as many sessions as ten users may.
		MaxReplacementsPerHour: cfg.MaxReplacementsPerHour, MaxReplacementsPerHourTotal: 10 * cfg.MaxReplacementsPerHour,
		ReconcileTimeout: cfg.ReconcileTimeout,
		Lease:            cfg.SessionLease, CoolDown: nonZero(cfg.SessionCoolDown), Linger: cfg.SessionLinger, Margin: nonZero(cfg.SessionMargin), RenewAhead: nonZero(cfg.RenewAhead), CloseAfter: nonZero(cfg.CloseAfter),
		AcquireTimeout: cfg.AcquireTimeout, DrainTimeout: nonZero(cfg.DrainTimeout), Interval: cfg.SweepInterval,
		// The node client's own deadline comes first, because its error names
		// the node as the cause.
		OpenTimeout: cfg.OpenTimeout + 10*time.Second,
		Renew:       m.renew, Prewarm: m.prewarm, Foreign: opts.Foreign, Observe: m.observer.Session, Logger: m.log,
	}
}

// nonZero converts a duration of the Config, where zero means no time at all, for
// session.Options, where zero means the default.
func nonZero(d time.Duration) time.Duration { return max(d, time.Millisecond) }

// webhooks returns the receivers of the rollouts' events.
func webhooks(cfg Config) []rollout.Webhook {
	if cfg.RolloutWebhookURL.Reveal() == "" {
		return nil
	}
	return []rollout.Webhook{{Name: "default", URL: cfg.RolloutWebhookURL.Reveal(), Secret: cfg.RolloutWebhookSecret.Reveal()}}
}

// Load reads the mapping and the flags once. It returns an error if the mapping is
// missing or invalid, or if the database is unavailable or has no tables. Run reads
// both as well, but continues without them and answers 503, so a host that should
// not start in that state calls Load first. While the master switch is off no
// mapping is needed.
func (m *Module) Load(ctx context.Context) error {
	err := m.flags.Refresh(ctx)
	if m.cfg.FeatureEnabled {
		err = errors.Join(m.catalog.Load(ctx), err)
	}
	if err != nil {
		return fmt.Errorf("automation: load: %w", err)
	}
	return nil
}

// Run works until ctx ends: it watches the flags and the mapping, keeps cached
// settings fresh, maintains the sessions, and cleans up. A mapping or flags that
// cannot be read are logged, and Ready reports them until they can. When ctx ends,
// Run waits up to the drain time-out for requests in flight, so end the HTTP server
// first. Run returns when everything that it started has ended. Call it once.
func (m *Module) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("automation: Run was called twice")
	}
	defer m.running.Store(false)
	defer context.AfterFunc(ctx, func() { m.running.Store(false) })() // not ready while draining
	_ = m.catalog.Load(ctx)                                           // before the flags admit anybody; the error is logged, and catalog.Run tries again
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.catalog.Run(ctx) })
	g.Go(func() error { return m.sessions.Run(ctx) })
	<-m.sessions.Started() // before the flags admit anybody
	g.Go(func() error { m.flags.Run(ctx); return nil })
	g.Go(func() error { m.controller.Run(ctx); return nil })
	g.Go(func() error { m.settings.Run(ctx); return nil })
	g.Go(func() error { return m.cleaner.Run(ctx) })
	if node, ok := m.node.(interface{ Run(context.Context) }); ok && m.cfg.FeatureEnabled {
		g.Go(func() error { node.Run(ctx); return nil }) // checks the node's health while no request does
	}
	g.Go(func() error {
		m.replicas.Run(ctx, m.log, replica.Counters{Requests: m.requests, Failures: m.failures, Now: m.now}, m.replicaState)
		return nil
	})
	defer context.AfterFunc(ctx, m.chat.StopDraining)()
	defer m.chat.Close() // after the sessions have drained
	return g.Wait()
}

// Flags returns a read-only view of all flags in this process's snapshot, the
// host's own included. The module itself decides by it.
func (m *Module) Flags() *flags.View { return m.flags.View }

// FlagsChanged makes the module read the flags now instead of at its next poll. It is
// for flags/listen, or for a host that learns of a change in its own way.
func (m *Module) FlagsChanged() { m.flags.Trigger() }

// EraseUser erases everything that is stored about a user. It can be repeated. The
// user's open sessions no longer serve requests and stay open until they expire.
func (m *Module) EraseUser(ctx context.Context, userID string) error {
	m.failures.Erase(userID)
	return errors.Join(m.settings.EraseUser(ctx, userID), m.sessions.EraseUser(ctx, userID), m.feedback.Erase(ctx, userID), m.fleet.EraseUser(ctx, userID))
}

// renew reports whether a user who uses a session still wants one, and for how long.
func (m *Module) renew(ctx context.Context, userID string) (time.Duration, bool) {
	if !m.decide(userID).On {
		return 0, false
	}
	s, err := m.settings.GetCached(ctx, userID)
	return s.SessionDuration, err == nil && s.IsEnabled
}

// prewarm lists the models that keep an idle session ready. It lists none while the
// feature is off for everybody. It is not safe for concurrent use.
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
				m.log.Warn("model of AUTOMATION_PREWARM_MODELS is unknown", "model", name, "error", err)
			}
			m.unknown[name] = true
			continue
		}
		delete(m.unknown, name)
		list = append(list, session.Prewarm{ModelID: model.ID, Duration: m.cfg.DefaultSessionDuration})
	}
	return list
}
