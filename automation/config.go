package automation

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caarlos0/env/v11"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
	"github.com/MorpheusAIs/gateway-automation/internal/webhooksecret"
)

// Config is what the environment says. Start from LoadConfig or DefaultConfig:
// the zero Config is not valid. Printing, logging or marshalling a Config
// shows no secret. Each field's comment names its variable; docs/environment.md
// has the defaults and the bounds.
type Config struct {
	// AUTOMATION_FEATURE_ENABLED: the master switch of this process; false beats
	// everything in the database.
	FeatureEnabled bool `env:"AUTOMATION_FEATURE_ENABLED" envDefault:"false"`
	// DEFAULT_SESSION_EXPIRATION: a user's session duration until they choose one.
	DefaultSessionDuration time.Duration `env:"DEFAULT_SESSION_EXPIRATION" envDefault:"3600"`
	// AUTOMATION_RETENTION_DAYS: for how many days the clean-up keeps what has
	// ended or was deleted.
	RetentionDays int `env:"AUTOMATION_RETENTION_DAYS" envDefault:"30"`
	// AUTOMATION_DEFAULT_OPT_IN: whether a user without stored settings has
	// automation on.
	DefaultOptIn bool `env:"AUTOMATION_DEFAULT_OPT_IN" envDefault:"false"`
	// AUTOMATION_MIN_SESSION_SECONDS: the shortest session duration a user may
	// choose; the chain refuses less than 300 s.
	MinSessionDuration time.Duration `env:"AUTOMATION_MIN_SESSION_SECONDS" envDefault:"300"`
	// AUTOMATION_MAX_SESSION_SECONDS: the longest session duration a user may
	// choose; the chain has a maximum of its own and caps silently.
	MaxSessionDuration time.Duration `env:"AUTOMATION_MAX_SESSION_SECONDS" envDefault:"86400"`
	// AUTOMATION_SESSION_SCOPE: whom a session serves: `user`, the user it was
	// opened for, or `shared`, any user of the model.
	SessionScope Scope `env:"AUTOMATION_SESSION_SCOPE" envDefault:"user"`
	// AUTOMATION_MAX_OPENS_PER_HOUR: sessions that may be opened for one user in
	// an hour; 0 is no limit.
	MaxOpensPerHour int `env:"AUTOMATION_MAX_OPENS_PER_HOUR" envDefault:"10"`
	// AUTOMATION_MAX_OPENS_PER_DAY: sessions that may be opened for one user in a
	// day; 0 is no limit.
	MaxOpensPerDay int `env:"AUTOMATION_MAX_OPENS_PER_DAY" envDefault:"50"`
	// AUTOMATION_MAX_SESSIONS_PER_USER: open sessions that one user may hold at
	// once. Idle sessions of other models give way to a new one, up to as many
	// again; they stay usable until their end, because closing them early would
	// lock their stake.
	MaxSessionsPerUser int `env:"AUTOMATION_MAX_SESSIONS_PER_USER" envDefault:"4"`
	// AUTOMATION_MAX_REPLACEMENTS_PER_HOUR: paid sessions that may replace broken
	// ones in an hour, of one user and model; the user's budget is not charged.
	MaxReplacementsPerHour int `env:"AUTOMATION_MAX_REPLACEMENTS_PER_HOUR" envDefault:"3"`
	// AUTOMATION_MAX_OPEN_SESSIONS: open sessions of all users together; 0 is no
	// limit.
	MaxOpenSessions int `env:"AUTOMATION_MAX_OPEN_SESSIONS" envDefault:"0"`
	// AUTOMATION_PREWARM_MODELS: names of models that keep one idle session ready,
	// separated by commas.
	PrewarmModels []string `env:"AUTOMATION_PREWARM_MODELS"`
	// AUTOMATION_UNKNOWN_MODEL: what a name that no model has gets: `reject`, an
	// error with suggestions, or `default`, the default model.
	UnknownModel UnknownModel `env:"AUTOMATION_UNKNOWN_MODEL" envDefault:"reject"`
	// MODEL_MAPPINGS_FILE: the file that maps names to model ids.
	MappingsFile string `env:"MODEL_MAPPINGS_FILE" envDefault:"model_mappings.json"`
	// ACTIVE_MODELS_URL: the live feed of models, http or https, without
	// credentials: it is logged as it is. Off when empty.
	ActiveModelsURL string `env:"ACTIVE_MODELS_URL"`
	// PROXY_ROUTER_URL: the Morpheus node, http or https, without credentials,
	// query or fragment.
	ProxyRouterURL string `env:"PROXY_ROUTER_URL"`
	// PROXY_ROUTER_USERNAME: the node's user for basic auth.
	ProxyRouterUsername string `env:"PROXY_ROUTER_USERNAME"`
	// PROXY_ROUTER_PASSWORD: the node's password for basic auth.
	ProxyRouterPassword Secret `env:"PROXY_ROUTER_PASSWORD"`
	// AUTOMATION_ADMIN_TOKEN: the bearer token of the admin API, printable ASCII
	// without spaces; when empty, the admin API answers 404.
	AdminToken Secret `env:"AUTOMATION_ADMIN_TOKEN"`
	// AUTOMATION_FLAG_POLL_INTERVAL: how often the flags are read from the
	// database; a listener may be faster.
	FlagPollInterval time.Duration `env:"AUTOMATION_FLAG_POLL_INTERVAL" envDefault:"1s"`
	// AUTOMATION_FLAG_SNAPSHOT_FILE: a file that keeps the flags over a restart
	// without the database, one for each process; none when empty.
	FlagSnapshotFile string `env:"AUTOMATION_FLAG_SNAPSHOT_FILE"`
	// AUTOMATION_ROLLOUT_INTERVAL: how often rollouts are evaluated, and this
	// replica's counts written.
	RolloutInterval time.Duration `env:"AUTOMATION_ROLLOUT_INTERVAL" envDefault:"2s"`
	// AUTOMATION_ROLLOUT_WEBHOOK_URL: a receiver of the rollouts' events, http or
	// https; none when empty.
	RolloutWebhookURL Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_URL"`
	// AUTOMATION_ROLLOUT_WEBHOOK_SECRET: what the receiver checks the signatures
	// with, by https://www.standardwebhooks.com: whsec_ and base64.
	RolloutWebhookSecret Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_SECRET"`
	// AUTOMATION_MAPPING_RELOAD_INTERVAL: how often the mapping file is looked at
	// for a change.
	MappingReloadInterval time.Duration `env:"AUTOMATION_MAPPING_RELOAD_INTERVAL" envDefault:"2s"`
	// AUTOMATION_FEED_REFRESH_INTERVAL: how often the live feed is asked for a
	// change.
	FeedRefreshInterval time.Duration `env:"AUTOMATION_FEED_REFRESH_INTERVAL" envDefault:"5m"`
	// AUTOMATION_SWEEP_INTERVAL: how often the sweeper looks for sessions to
	// close, to reconcile and to renew.
	SweepInterval time.Duration `env:"AUTOMATION_SWEEP_INTERVAL" envDefault:"5s"`
	// AUTOMATION_CLEANUP_INTERVAL: how often the clean-up looks for rows past
	// their retention.
	CleanupInterval time.Duration `env:"AUTOMATION_CLEANUP_INTERVAL" envDefault:"1h"`
	// AUTOMATION_SESSION_LEASE: how long a claim outlives a holder that has
	// stopped; the heartbeat comes every third of it.
	SessionLease time.Duration `env:"AUTOMATION_SESSION_LEASE" envDefault:"30s"`
	// AUTOMATION_SESSION_COOLDOWN: how long a session serves nobody after a request
	// that the node may still be working on, such as one that a time-out ended. A
	// node that closes the connection is done with it.
	SessionCoolDown time.Duration `env:"AUTOMATION_SESSION_COOLDOWN" envDefault:"30s"`
	// AUTOMATION_SESSION_LINGER: how long a replica keeps a session that has just
	// become free for the next request of its user and model there, which then needs
	// no database, where such requests follow one another; 0 is off.
	SessionLinger time.Duration `env:"AUTOMATION_SESSION_LINGER" envDefault:"300ms"`
	// AUTOMATION_SESSION_MARGIN: the least time a session must have left to be
	// handed out.
	SessionMargin time.Duration `env:"AUTOMATION_SESSION_MARGIN" envDefault:"30s"`
	// AUTOMATION_RENEW_AHEAD: how long before its end a session kept ready gets a
	// successor.
	RenewAhead time.Duration `env:"AUTOMATION_RENEW_AHEAD" envDefault:"1m"`
	// AUTOMATION_CLOSE_AFTER: how long after its end a session is closed; closing
	// early locks stake for a day.
	CloseAfter time.Duration `env:"AUTOMATION_CLOSE_AFTER" envDefault:"1m"`
	// AUTOMATION_ACQUIRE_TIMEOUT: how long a request waits for a session.
	AcquireTimeout time.Duration `env:"AUTOMATION_ACQUIRE_TIMEOUT" envDefault:"1m"`
	// AUTOMATION_RECONCILE_TIMEOUT: how long a request waits for an open of which
	// nobody knows yet what became of it.
	ReconcileTimeout time.Duration `env:"AUTOMATION_RECONCILE_TIMEOUT" envDefault:"20s"`
	// AUTOMATION_OPEN_TIMEOUT: how long the node may take to open a session.
	OpenTimeout time.Duration `env:"AUTOMATION_OPEN_TIMEOUT" envDefault:"3m"`
	// AUTOMATION_DRAIN_TIMEOUT: how long the end of the process waits for what is
	// in flight.
	DrainTimeout time.Duration `env:"AUTOMATION_DRAIN_TIMEOUT" envDefault:"30s"`
	// AUTOMATION_MAX_BODY_BYTES: the most bytes of a chat request that are read to
	// find its model.
	MaxBodyBytes int64 `env:"AUTOMATION_MAX_BODY_BYTES" envDefault:"33554432"`
	// AUTOMATION_MAX_BUFFERED_BYTES: request bodies held in memory at once by this
	// process; a request that finds no room is answered 503.
	MaxBufferedBytes int64 `env:"AUTOMATION_MAX_BUFFERED_BYTES" envDefault:"268435456"`
	// AUTOMATION_MAX_DB_CONNECTIONS: connections of the host's pool that the
	// module uses at once.
	MaxDBConnections int `env:"AUTOMATION_MAX_DB_CONNECTIONS" envDefault:"16"`
}

// Scope is whom a session serves.
type Scope string

// The scopes of a session.
const (
	ScopeUser   Scope = "user"   // the user it was opened for
	ScopeShared Scope = "shared" // any user of the model
)

// UnknownModel says what a request gets that names an unknown model.
type UnknownModel string

// What an unknown model's name leads to.
const (
	UnknownModelReject  UnknownModel = "reject"  // an error with suggestions
	UnknownModelDefault UnknownModel = "default" // the default model
)

// LoadConfig reads the process's environment. The error names every wrong
// variable and what was expected of it, one a line, and repeats no secret.
func LoadConfig() (Config, error) { return ParseConfig(env.ToMap(os.Environ())) }

// DefaultConfig is the Config of an empty environment.
func DefaultConfig() Config {
	c, err := ParseConfig(nil)
	if err != nil {
		panic(err) // a default in the tags is wrong; a test says so first
	}
	return c
}

// ParseConfig is LoadConfig for an environment given as a map. An empty
// variable is unset. White space around a value is ignored, but for secrets.
func ParseConfig(environ map[string]string) (Config, error) {
	var c Config
	faults := c.parse(environ)
	c.PrewarmModels = normalize(c.PrewarmModels)
	if err := c.validate(faults); err != nil {
		return Config{}, err
	}
	return c, nil
}

// UnknownVariables lists the variables of the process's environment that begin
// with AUTOMATION_ and mean nothing to LoadConfig: probably misspelt, and worth
// a warning.
func UnknownVariables() []string { return unknownVariables(env.ToMap(os.Environ())) }

func unknownVariables(environ map[string]string) []string {
	var c Config
	known := c.variables()
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(environ)) {
		isKnown := slices.ContainsFunc(known, func(v variable) bool { return v.name == name })
		if strings.HasPrefix(name, "AUTOMATION_") && !isKnown {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// normalize trims names and drops empty and repeated ones; letter case makes no
// difference, as names resolve in any.
func normalize(names []string) []string {
	var list []string
	for _, name := range names {
		name = strings.TrimSpace(name)
		isSame := func(other string) bool { return strings.EqualFold(name, other) }
		if name != "" && !slices.ContainsFunc(list, isSame) {
			list = append(list, name)
		}
	}
	return list
}

// check returns an error that names every field that is out of bounds or
// contradicts another, by its variable.
func (c Config) check() error { return c.validate(fieldErrors{}) }

// validate adds to faults those of single fields, then those of fields that
// contradict each other.
func (c *Config) validate(faults fieldErrors) error {
	all := c.variables()
	for _, v := range all {
		faults.add(v.name, v.err)
	}
	c.crossCheck(faults)
	var errs []error
	for _, v := range all {
		if err := faults[v.name]; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", v.name, err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("automation: config:\n%w", errors.Join(errs...))
}

// crossCheck compares fields that are right by themselves.
func (c *Config) crossCheck(faults fieldErrors) {
	const minimum, maximum = "AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS"
	single := maps.Clone(faults)
	compare := func(ok bool, name, relation, other string) {
		if !ok && single[name] == nil && single[other] == nil {
			faults.add(name, fmt.Errorf("expected %s %s", relation, other))
		}
	}
	compare(c.MaxSessionDuration >= c.MinSessionDuration, maximum, "at least", minimum)
	compare(c.DefaultSessionDuration >= c.MinSessionDuration, "DEFAULT_SESSION_EXPIRATION", "at least", minimum)
	compare(c.DefaultSessionDuration <= c.MaxSessionDuration, "DEFAULT_SESSION_EXPIRATION", "at most", maximum)
	compare(c.MaxBufferedBytes >= c.MaxBodyBytes, "AUTOMATION_MAX_BUFFERED_BYTES", "at least", "AUTOMATION_MAX_BODY_BYTES")
	compare(c.SessionMargin < c.MinSessionDuration, "AUTOMATION_SESSION_MARGIN", "less than", minimum)
	compare(c.RenewAhead < c.MinSessionDuration, "AUTOMATION_RENEW_AHEAD", "less than", minimum)
	if c.RolloutWebhookURL.Reveal() != "" && c.RolloutWebhookSecret.Reveal() == "" {
		faults.add("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", errSecret)
	}
}

// minSecret is how many bytes a secret has at least that others can guess at.
const minSecret = 16

// fieldErrors holds one error a variable, by its name: the first.
type fieldErrors map[string]error

func (f fieldErrors) add(name string, err error) {
	if err != nil && f[name] == nil {
		f[name] = err
	}
}

// checkURL checks a URL, which may be empty. Its error repeats nothing of it,
// because what is in the wrong place may be a password.
func checkURL(text string) error {
	if text == "" {
		return nil
	}
	_, err := httpurl.Parse(text)
	return err
}

// checkBaseURL is checkURL for a URL to which paths are appended.
func checkBaseURL(text string) error {
	if text == "" {
		return nil
	}
	_, err := httpurl.ParseBase(text)
	return err
}

func checkUsername(text string) error {
	if strings.Contains(text, ":") {
		return errors.New("expected no colon: basic auth allows none")
	}
	return checkLine(text)
}

// checkLine refuses what a secret has that was read from a file with its last
// line end.
func checkLine(text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("expected no line end or other control character")
	}
	return nil
}

var errSecret = errors.New("expected a secret where there is a webhook: echo whsec_$(openssl rand -base64 32)")

func checkSecret(text string) error {
	if text == "" {
		return nil
	}
	_, err := webhooksecret.Key(text)
	return err
}

func checkToken(text string) error {
	if text == "" {
		return nil
	}
	if len(text) < minSecret || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("expected at least 16 characters of printable ASCII, without spaces or line ends")
	}
	return nil
}
