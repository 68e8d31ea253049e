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

// Config is the configuration that LoadConfig reads from the environment. Start from
// LoadConfig or DefaultConfig, because the zero Config is not valid. Printing, logging
// or marshalling a Config shows no secret. Each field's comment names its variable;
// docs/environment.md has the defaults and the bounds.
type Config struct {
	// AUTOMATION_FEATURE_ENABLED: the master switch of this process; false turns
	// automation off whatever the database says.
	FeatureEnabled bool `env:"AUTOMATION_FEATURE_ENABLED" envDefault:"false"`
	// DEFAULT_SESSION_EXPIRATION: a user's session duration until they choose one.
	DefaultSessionDuration time.Duration `env:"DEFAULT_SESSION_EXPIRATION" envDefault:"3600"`
	// AUTOMATION_RETENTION_DAYS: how many days the clean-up keeps ended sessions,
	// deleted settings, handled feedback and users' errors.
	RetentionDays int `env:"AUTOMATION_RETENTION_DAYS" envDefault:"30"`
	// AUTOMATION_DEFAULT_OPT_IN: whether a user without stored settings has
	// automation on.
	DefaultOptIn bool `env:"AUTOMATION_DEFAULT_OPT_IN" envDefault:"false"`
	// AUTOMATION_MIN_SESSION_SECONDS: the shortest session duration a user may
	// choose; the chain refuses less than 300 s.
	MinSessionDuration time.Duration `env:"AUTOMATION_MIN_SESSION_SECONDS" envDefault:"300"`
	// AUTOMATION_MAX_SESSION_SECONDS: the longest session duration a user may
	// choose; the chain silently shortens sessions to a maximum of its own.
	MaxSessionDuration time.Duration `env:"AUTOMATION_MAX_SESSION_SECONDS" envDefault:"86400"`
	// AUTOMATION_SESSION_SCOPE: who may use a session: `user`, only the user it was
	// opened for, or `shared`, any user of the model.
	SessionScope Scope `env:"AUTOMATION_SESSION_SCOPE" envDefault:"user"`
	// AUTOMATION_MAX_OPENS_PER_HOUR: sessions that may be opened for one user in
	// an hour; 0 is no limit.
	MaxOpensPerHour int `env:"AUTOMATION_MAX_OPENS_PER_HOUR" envDefault:"10"`
	// AUTOMATION_MAX_OPENS_PER_DAY: sessions that may be opened for one user in a
	// day; 0 is no limit.
	MaxOpensPerDay int `env:"AUTOMATION_MAX_OPENS_PER_DAY" envDefault:"50"`
	// AUTOMATION_MAX_SESSIONS_PER_USER: open sessions that one user may hold at
	// once. Idle sessions of other models do not count, up to twice this number in
	// all: they stay open until their end, because closing them early would lock
	// their stake.
	MaxSessionsPerUser int `env:"AUTOMATION_MAX_SESSIONS_PER_USER" envDefault:"4"`
	// AUTOMATION_MAX_REPLACEMENTS_PER_HOUR: paid sessions that may replace broken
	// ones of one user and model in an hour, without a charge to the user's budget;
	// 0 allows none.
	MaxReplacementsPerHour int `env:"AUTOMATION_MAX_REPLACEMENTS_PER_HOUR" envDefault:"3"`
	// AUTOMATION_MAX_OPEN_SESSIONS: open sessions of all users together; 0 is no
	// limit.
	MaxOpenSessions int `env:"AUTOMATION_MAX_OPEN_SESSIONS" envDefault:"0"`
	// AUTOMATION_PREWARM_MODELS: names of models that keep one idle session ready,
	// separated by commas.
	PrewarmModels []string `env:"AUTOMATION_PREWARM_MODELS"`
	// AUTOMATION_UNKNOWN_MODEL: what a request with an unknown model name gets:
	// `reject`, an error with suggestions, or `default`, the default model.
	UnknownModel UnknownModel `env:"AUTOMATION_UNKNOWN_MODEL" envDefault:"reject"`
	// MODEL_MAPPINGS_FILE: the file that maps names to model ids.
	MappingsFile string `env:"MODEL_MAPPINGS_FILE" envDefault:"model_mappings.json"`
	// ACTIVE_MODELS_URL: the live feed of models, http or https, without
	// credentials, because the URL is logged; no feed when empty.
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
	// database; with a listener, changes take effect sooner.
	FlagPollInterval time.Duration `env:"AUTOMATION_FLAG_POLL_INTERVAL" envDefault:"1s"`
	// AUTOMATION_FLAG_SNAPSHOT_FILE: a file from which a process restores the flags
	// if it starts while the database is unavailable; each process needs its own.
	// None when empty.
	FlagSnapshotFile string `env:"AUTOMATION_FLAG_SNAPSHOT_FILE"`
	// AUTOMATION_ROLLOUT_INTERVAL: how often this replica evaluates rollouts and
	// writes its counts.
	RolloutInterval time.Duration `env:"AUTOMATION_ROLLOUT_INTERVAL" envDefault:"2s"`
	// AUTOMATION_ROLLOUT_WEBHOOK_URL: the URL that receives the rollouts' events,
	// http or https; none when empty.
	RolloutWebhookURL Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_URL"`
	// AUTOMATION_ROLLOUT_WEBHOOK_SECRET: the secret that signs the events, as
	// https://www.standardwebhooks.com defines it: whsec_ followed by base64.
	RolloutWebhookSecret Secret `env:"AUTOMATION_ROLLOUT_WEBHOOK_SECRET"`
	// AUTOMATION_MAPPING_RELOAD_INTERVAL: how often the mapping file is checked for
	// a change.
	MappingReloadInterval time.Duration `env:"AUTOMATION_MAPPING_RELOAD_INTERVAL" envDefault:"2s"`
	// AUTOMATION_FEED_REFRESH_INTERVAL: how often the live feed is checked for a
	// change.
	FeedRefreshInterval time.Duration `env:"AUTOMATION_FEED_REFRESH_INTERVAL" envDefault:"5m"`
	// AUTOMATION_SWEEP_INTERVAL: how often the maintenance looks for sessions to
	// close, to reconcile and to renew.
	SweepInterval time.Duration `env:"AUTOMATION_SWEEP_INTERVAL" envDefault:"5s"`
	// AUTOMATION_CLEANUP_INTERVAL: how often the clean-up looks for rows past
	// their retention.
	CleanupInterval time.Duration `env:"AUTOMATION_CLEANUP_INTERVAL" envDefault:"1h"`
	// AUTOMATION_SESSION_LEASE: how long a session stays claimed after its replica
	// has stopped; the heartbeat extends claims every third of that time.
	SessionLease time.Duration `env:"AUTOMATION_SESSION_LEASE" envDefault:"30s"`
	// AUTOMATION_SESSION_COOLDOWN: how long a session serves nobody after a request
	// that the node may still be working on, such as one that a time-out ended. If
	// the node itself closes the connection, the session is free at once.
	SessionCoolDown time.Duration `env:"AUTOMATION_SESSION_COOLDOWN" envDefault:"30s"`
	// AUTOMATION_SESSION_LINGER: how long a replica keeps a session that has become
	// free, so that the next request of the same user and model needs no database.
	// It does so only if such requests have followed one another; 0 turns it off.
	SessionLinger time.Duration `env:"AUTOMATION_SESSION_LINGER" envDefault:"300ms"`
	// AUTOMATION_SESSION_MARGIN: a session with less time left than this is not
	// given to a request.
	SessionMargin time.Duration `env:"AUTOMATION_SESSION_MARGIN" envDefault:"30s"`
	// AUTOMATION_RENEW_AHEAD: how long before its end a session that is in use, or
	// kept ready, gets a successor.
	RenewAhead time.Duration `env:"AUTOMATION_RENEW_AHEAD" envDefault:"1m"`
	// AUTOMATION_CLOSE_AFTER: how long after its end a session is closed; closing
	// early locks stake for a day.
	CloseAfter time.Duration `env:"AUTOMATION_CLOSE_AFTER" envDefault:"1m"`
	// AUTOMATION_ACQUIRE_TIMEOUT: how long a request waits for a session.
	AcquireTimeout time.Duration `env:"AUTOMATION_ACQUIRE_TIMEOUT" envDefault:"1m"`
	// AUTOMATION_RECONCILE_TIMEOUT: how long a request waits while it is unknown
	// whether an earlier open succeeded.
	ReconcileTimeout time.Duration `env:"AUTOMATION_RECONCILE_TIMEOUT" envDefault:"20s"`
	// AUTOMATION_OPEN_TIMEOUT: how long the node may take to open a session.
	OpenTimeout time.Duration `env:"AUTOMATION_OPEN_TIMEOUT" envDefault:"3m"`
	// AUTOMATION_DRAIN_TIMEOUT: how long the module waits for requests in flight
	// when it is stopped.
	DrainTimeout time.Duration `env:"AUTOMATION_DRAIN_TIMEOUT" envDefault:"30s"`
	// AUTOMATION_MAX_BODY_BYTES: the largest part of a request body that is read to
	// find its model, in bytes; Module.Forward refuses larger bodies.
	MaxBodyBytes int64 `env:"AUTOMATION_MAX_BODY_BYTES" envDefault:"33554432"`
	// AUTOMATION_MAX_BUFFERED_BYTES: bytes of request bodies that this process holds
	// in memory at once; a request that would exceed them is answered 503.
	MaxBufferedBytes int64 `env:"AUTOMATION_MAX_BUFFERED_BYTES" envDefault:"268435456"`
	// AUTOMATION_MAX_DB_CONNECTIONS: connections of the host's pool that the
	// module uses at once.
	MaxDBConnections int `env:"AUTOMATION_MAX_DB_CONNECTIONS" envDefault:"16"`
}

// Scope says who may use a session.
type Scope string

// The scopes of a session.
const (
	ScopeUser   Scope = "user"   // only the user it was opened for
	ScopeShared Scope = "shared" // any user of the model
)

// UnknownModel says what a request with an unknown model name gets.
type UnknownModel string

// The answers to an unknown model name.
const (
	UnknownModelReject  UnknownModel = "reject"  // an error with suggestions
	UnknownModelDefault UnknownModel = "default" // the default model
)

// LoadConfig reads the process's environment. The error has one line for each wrong
// variable, with what was expected of it, and repeats no secret.
func LoadConfig() (Config, error) { return ParseConfig(env.ToMap(os.Environ())) }

// DefaultConfig is the Config of an empty environment.
func DefaultConfig() Config {
	c, err := ParseConfig(nil)
	if err != nil {
		panic(err) // a default in the tags is wrong, which a test finds
	}
	return c
}

// ParseConfig is LoadConfig for an environment given as a map. A variable with an
// empty value counts as unset. White space around a value is ignored, except in
// secrets.
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
// with AUTOMATION_ and that LoadConfig does not read. They are probably misspelt, so
// a host should log a warning.
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

// normalize trims names and drops empty and repeated ones. It ignores letter case,
// because names resolve in any case.
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

// check returns an error that names the variable of every field that is out of
// bounds or contradicts another.
func (c Config) check() error { return c.validate(fieldErrors{}) }

// validate checks each field, then compares the fields with each other. The error
// also has the faults that parse found.
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

// crossCheck compares fields with each other. It compares only fields that are valid
// by themselves.
func (c *Config) crossCheck(faults fieldErrors) {
	const minimum, maximum = "AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS"
	invalid := maps.Clone(faults)
	compare := func(ok bool, name, relation, other string) {
		if !ok && invalid[name] == nil && invalid[other] == nil {
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
		faults.add("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", errMissingWebhookSecret)
	}
}

// minTokenLength is the minimum length of the admin token in bytes: anybody who
// reaches the admin API can try to guess it.
const minTokenLength = 16

// fieldErrors holds one error for each wrong variable, by the variable's name.
type fieldErrors map[string]error

// add keeps the first error of a variable.
func (f fieldErrors) add(name string, err error) {
	if err != nil && f[name] == nil {
		f[name] = err
	}
}

// checkURL checks a URL, which may be empty. The error repeats no part of the URL,
// because any part of a malformed one may be a password.
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
	return checkNoControl(text)
}

// checkNoControl rejects control characters. A secret that was read from a file often
// has a trailing line end.
func checkNoControl(text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return errors.New("expected no line end or other control character")
	}
	return nil
}

var errMissingWebhookSecret = errors.New("expected a secret, because there is a webhook; make one with: echo whsec_$(openssl rand -base64 32)")

func checkWebhookSecret(text string) error {
	if text == "" {
		return nil
	}
	_, err := webhooksecret.Key(text)
	return err
}

func checkAdminToken(text string) error {
	if text == "" {
		return nil
	}
	if len(text) < minTokenLength || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("expected at least 16 characters of printable ASCII, without spaces or line ends")
	}
	return nil
}
