package automationtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
)

// TB is the part of testing.TB that this package needs.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Cleanup(func())
}

// Options configure a [Gateway]. The zero value works.
type Options struct {
	// Models are the model names that requests can use. The first is the default
	// model. Nil means "llama" and "embedder".
	Models []string
	// Config, if set, changes the configuration, which is the default one with
	// the feature and the users' setting on, without budgets, and with short
	// intervals.
	Config func(*automation.Config)
	// Identify replaces the default, which identifies the key sk-alice as alice.
	Identify automation.Identify
	// Node configures the simulated node. Its Now is ignored: the node uses the
	// Gateway's clock.
	Node proxyroutertest.Options
	// Observer receives the outcome of each request; nil ignores them.
	Observer automation.Observer
	// Logger is the module's logger; nil discards.
	Logger *slog.Logger
}

// Gateway is a running module. No user has the feature before On.
type Gateway struct {
	*automation.Module
	// Node is the simulated node, for injecting faults and reading statistics.
	// Advance moves its clock.
	Node *proxyroutertest.Server
	// DB is the module's SQLite database, for a test to inspect.
	DB *sqlx.DB

	tb      TB
	flags   *flags.Store
	clock   *clock
	closers []func() error // in the order of the start
}

// New starts a Gateway and returns when it is ready. The Gateway is closed when
// the test ends. An error while it starts or closes fails the test.
func New(tb TB, o Options) *Gateway {
	tb.Helper()
	g := &Gateway{tb: tb, clock: &clock{}}
	if err := g.start(o); err != nil {
		tb.Fatal(errors.Join(fmt.Errorf("automationtest: %w", err), g.close()))
		return nil
	}
	tb.Cleanup(func() {
		if err := g.close(); err != nil {
			tb.Errorf("automationtest: %v", err)
		}
	})
	return g
}

// close stops everything that start has started, the last first.
func (g *Gateway) close() error {
	var errs []error
	for _, closer := range slices.Backward(g.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

func (g *Gateway) start(o Options) error {
	dir, err := os.MkdirTemp("", "automationtest")
	if err != nil {
		return err
	}
	g.closers = append(g.closers, func() error { return os.RemoveAll(dir) })
	if g.DB, err = sqlx.Open("sqlite", "file:"+filepath.Join(dir, "automation.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=synchronous(OFF)"); err != nil {
		return err
	}
	g.closers = append(g.closers, g.DB.Close)
	g.DB.SetMaxOpenConns(1)
	if _, err := schema.Migrate(context.Background(), g.DB); err != nil {
		return err
	}
	g.flags = flags.NewStore(g.DB, flags.StoreOptions{})

	if o.Node.Username == "" {
		o.Node.Username, o.Node.Password = "gateway", "secret"
	}
	o.Node.Now = g.clock.now
	if g.Node, err = proxyroutertest.Start(o.Node); err != nil {
		return err
	}
	g.closers = append(g.closers, func() error { g.Node.Close(); return nil })
	client, err := proxyrouter.New(proxyrouter.Options{URL: g.Node.URL, Username: o.Node.Username, Password: o.Node.Password})
	if err != nil {
		return err
	}
	g.closers = append(g.closers, func() error { client.CloseIdleConnections(); return nil })

	cfg, err := newConfig(dir, o)
	if err != nil {
		return err
	}
	if o.Identify == nil {
		o.Identify = identifyByKey
	}
	g.Module, err = automation.New(cfg, g.DB, o.Identify, automation.Options{Node: node{client, g.clock}, Observer: o.Observer, Logger: o.Logger})
	if err != nil {
		return err
	}
	return g.run()
}

// run runs the module and waits until it is ready.
func (g *Gateway) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	g.closers = append(g.closers, func() error { cancel(); return <-done })
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		if p := g.Snapshot().Components; p["run"].OK && p["flags"].OK && p["mapping"].OK {
			return nil
		}
		select {
		case <-poll.C:
		case err := <-done:
			done <- err // for close
			return errors.Join(err, errors.New("the module stopped before it was ready"))
		case <-timeout.C:
			return fmt.Errorf("the module is not ready after a minute: %v", g.Snapshot().Components)
		}
	}
}

// newConfig returns the module's configuration. It writes the file with the
// models into dir.
func newConfig(dir string, o Options) (automation.Config, error) {
	models := map[string]string{"default": proxyroutertest.ModelID("llama"), "llama": proxyroutertest.ModelID("llama"), "embedder": proxyroutertest.ModelID("embedder")}
	if o.Models != nil {
		models = map[string]string{"default": proxyroutertest.ModelID(o.Models[0])}
		for _, name := range o.Models {
			models[name] = proxyroutertest.ModelID(name)
		}
	}
	cfg := automation.DefaultConfig()
	cfg.FeatureEnabled, cfg.DefaultOptIn = true, true
	cfg.MaxOpensPerHour, cfg.MaxOpensPerDay = 0, 0
	cfg.SweepInterval, cfg.AcquireTimeout, cfg.DrainTimeout = 20*time.Millisecond, 10*time.Second, 5*time.Second
	cfg.MappingsFile = filepath.Join(dir, "model_mappings.json")
	text, err := json.Marshal(models)
	if err != nil {
		return cfg, err
	}
	if o.Config != nil {
		o.Config(&cfg)
	}
	return cfg, os.WriteFile(filepath.Join(dir, "model_mappings.json"), text, 0o600)
}

// identifyByKey identifies alice by "Bearer sk-alice".
func identifyByKey(r *http.Request) (automation.Identity, error) {
	user, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer sk-")
	if !ok || user == "" {
		return automation.Identity{}, errors.New("automationtest: send Authorization: Bearer sk-<user>")
	}
	return automation.Identity{UserID: user}, nil
}

// On gives users the feature at once. Automation then acts on their requests,
// unless they turn it off by the settings API. An error fails the test.
func (g *Gateway) On(users ...string) {
	g.tb.Helper()
	g.updateFlag(users, nil)
}

// Off takes the feature from users at once. An error fails the test.
func (g *Gateway) Off(users ...string) {
	g.tb.Helper()
	g.updateFlag(nil, users)
}

// updateFlag adds users to the flag's lists and loads the flag into the module.
func (g *Gateway) updateFlag(on, off []string) {
	g.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	f, err := g.flags.Get(ctx, automation.FlagName)
	if err == nil {
		enabled := flags.NewIDs(append(without(f.EnabledUserIDs, off), on...)...)
		disabled := flags.NewIDs(append(without(f.DisabledUserIDs, on), off...)...)
		_, err = g.flags.Update(ctx, automation.FlagName, flags.Change{EnabledUserIDs: &enabled, DisabledUserIDs: &disabled}, "automationtest", 0)
	}
	if err == nil {
		err = g.Load(ctx)
	}
	if err != nil {
		g.tb.Fatal(fmt.Errorf("automationtest: %w", err))
	}
}

// without returns the ids that are not among the removed ones.
func without(ids flags.IDs, removed []string) []string {
	remove := flags.NewIDs(removed...)
	var kept []string
	for _, id := range ids.List() {
		if !remove.Has(id) {
			kept = append(kept, id)
		}
	}
	return kept
}
