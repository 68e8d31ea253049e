package automation

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
)

// Config is what the environment says. Start from LoadConfig or DefaultConfig:
// the zero Config is not valid. Printing, logging or marshalling a Config
// shows no secret. Each field's comment names its variable; docs/environment.md
// has the defaults and the bounds.
type Config struct {
	// AUTOMATION_FEATURE_ENABLED: the master switch of this process; false beats
	// everything in the database.
	FeatureEnabled bool
	// DEFAULT_SESSION_EXPIRATION: a user's session duration until they choose one.
	DefaultSessionDuration time.Duration
	// AUTOMATION_RETENTION_DAYS: how long the clean-up keeps what has ended or was
	// deleted.
	Retention time.Duration
	// AUTOMATION_DEFAULT_OPT_IN: whether a user without stored settings has
	// automation on.
	DefaultOptIn bool
	// AUTOMATION_MIN_SESSION_SECONDS: the shortest session duration a user may
	// choose; the chain refuses less than 300 s.
	MinSessionDuration time.Duration
	// AUTOMATION_MAX_SESSION_SECONDS: the longest session duration a user may
	// choose; the chain has a maximum of its own and caps silently.
	MaxSessionDuration time.Duration
	// AUTOMATION_SESSION_SCOPE: whom a session serves: `user`, the user it was
	// opened for, or `shared`, any user of the model.
	SessionScope Scope
	// AUTOMATION_MAX_OPENS_PER_HOUR: sessions that may be opened for one user in
	// an hour; 0 is no limit.
	MaxOpensPerHour int
	// AUTOMATION_MAX_OPENS_PER_DAY: sessions that may be opened for one user in a
	// day; 0 is no limit.
	MaxOpensPerDay int
	// AUTOMATION_MAX_SESSIONS_PER_USER: open sessions that one user may hold at
	// once.
	MaxSessionsPerUser int
	// AUTOMATION_MAX_OPEN_SESSIONS: open sessions of all users together; 0 is no
	// limit.
	MaxOpenSessions int
	// AUTOMATION_PREWARM_MODELS: names of models that keep one idle session ready,
	// separated by commas.
	PrewarmModels []string
	// AUTOMATION_UNKNOWN_MODEL: what a name that no model has gets: `reject`, an
	// error with suggestions, or `default`, the default model.
	UnknownModel UnknownModel
	// MODEL_MAPPINGS_FILE: the file that maps names to model ids.
	MappingsFile string
	// ACTIVE_MODELS_URL: the live feed of models, http or https, without
	// credentials: it is logged as it is. Off when empty.
	ActiveModelsURL string
	// PROXY_ROUTER_URL: the Morpheus node, http or https, without credentials,
	// query or fragment.
	ProxyRouterURL string
	// PROXY_ROUTER_USERNAME: the node's user for basic auth.
	ProxyRouterUsername string
	// PROXY_ROUTER_PASSWORD: the node's password for basic auth.
	ProxyRouterPassword Secret
	// AUTOMATION_ADMIN_TOKEN: the bearer token of the admin API, printable ASCII
	// without spaces; when empty, the admin API answers 404.
	AdminToken Secret
	// AUTOMATION_FLAG_POLL_INTERVAL: how often the flags are read from the
	// database; a listener may be faster.
	FlagPollInterval time.Duration
	// AUTOMATION_FLAG_SNAPSHOT_FILE: a file that keeps the flags over a restart
	// without the database, one for each process; none when empty.
	FlagSnapshotFile string
	// AUTOMATION_ROLLOUT_INTERVAL: how often rollouts are looked at, and this
	// replica's counts handed in.
	RolloutInterval time.Duration
	// AUTOMATION_ROLLOUT_WEBHOOK_URL: a receiver of the rollouts' events, http or
	// https; none when empty.
	RolloutWebhookURL Secret
	// AUTOMATION_ROLLOUT_WEBHOOK_SECRET: what the receiver checks the signatures
	// with; at least 16 bytes.
	RolloutWebhookSecret Secret
	// AUTOMATION_MAPPING_RELOAD_INTERVAL: how often the mapping file is looked at
	// for a change.
	MappingReloadInterval time.Duration
	// AUTOMATION_FEED_REFRESH_INTERVAL: how often the live feed is asked for a
	// change.
	FeedRefreshInterval time.Duration
	// AUTOMATION_SWEEP_INTERVAL: how often the sweeper looks for sessions to
	// close, to reconcile and to renew.
	SweepInterval time.Duration
	// AUTOMATION_CLEANUP_INTERVAL: how often the clean-up looks for rows past
	// their retention.
	CleanupInterval time.Duration
	// AUTOMATION_SESSION_LEASE: how long a claim outlives a holder that has
	// stopped; the heartbeat comes every third of it.
	SessionLease time.Duration
	// AUTOMATION_SESSION_MARGIN: the least time a session must have left to be
	// handed out.
	SessionMargin time.Duration
	// AUTOMATION_RENEW_AHEAD: how long before its end a session kept ready gets a
	// successor.
	RenewAhead time.Duration
	// AUTOMATION_CLOSE_AFTER: how long after its end a session is closed; closing
	// early locks stake for a day.
	CloseAfter time.Duration
	// AUTOMATION_ACQUIRE_TIMEOUT: how long a request waits for a session.
	AcquireTimeout time.Duration
	// AUTOMATION_OPEN_TIMEOUT: how long the node may take to open a session.
	OpenTimeout time.Duration
	// AUTOMATION_DRAIN_TIMEOUT: how long the end of the process waits for what is
	// in flight.
	DrainTimeout time.Duration
	// AUTOMATION_MAX_BODY_BYTES: the most bytes of a chat request that are read to
	// find its model.
	MaxBodyBytes int64
	// AUTOMATION_MAX_DB_CONNECTIONS: connections of the host's pool that the
	// module uses at once.
	MaxDBConnections int
}

// Scope is whom a session serves.
type Scope string

// The scopes of a session.
const (
	ScopeUser   Scope = "user"   // the user it was opened for
	ScopeShared Scope = "shared" // any user of the model
)

// UnknownModel is what a request gets that names no model we know.
type UnknownModel string

// What an unknown model's name leads to.
const (
	UnknownModelReject  UnknownModel = "reject"  // an error with suggestions
	UnknownModelDefault UnknownModel = "default" // the default model
)

// LoadConfig reads the process's environment. The error names every wrong
// variable and what was expected of it, one a line, and repeats no secret.
func LoadConfig() (Config, error) { return ParseConfig(environ()) }

func environ() map[string]string {
	all := map[string]string{}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		all[name] = value
	}
	return all
}

// DefaultConfig is the Config of an empty environment.
func DefaultConfig() Config {
	c, err := ParseConfig(nil)
	if err != nil {
		panic(err) // a default in the table is wrong; a test says so first
	}
	return c
}

// ParseConfig is LoadConfig for an environment given as a map. An empty
// variable is unset. White space around a value is ignored, but for secrets.
func ParseConfig(environ map[string]string) (Config, error) {
	var c Config
	faults := fieldErrors{}
	for _, v := range c.variables() {
		faults.add(v.name, v.read(environ[v.name]))
	}
	c.PrewarmModels = normalize(c.PrewarmModels)
	if err := c.validate(faults); err != nil {
		return Config{}, err
	}
	return c, nil
}

// UnknownVariables lists the variables of the process's environment that begin
// with AUTOMATION_ and mean nothing to LoadConfig: probably misspelt, and worth
// a warning.
func UnknownVariables() []string { return unknownVariables(environ()) }

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

// Validate names every field that is out of bounds or at odds with another, by
// its variable.
func (c Config) Validate() error { return c.validate(fieldErrors{}) }

// validate adds to faults those of single fields, then those of fields that do
// not go together where each is right by itself.
func (c *Config) validate(faults fieldErrors) error {
	all := c.variables()
	for _, v := range all {
		faults.add(v.name, v.check())
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

// checkURL is of a URL that may be empty. It repeats nothing of it: what is in
// the wrong place may be a password.
func checkURL(text string) error {
	if text == "" {
		return nil
	}
	_, err := httpurl.Parse(text)
	return err
}

// checkBaseURL is checkURL of one that paths are added to.
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
	if strings.ContainsFunc(text, isControl) {
		return errors.New("expected no line end or other control character")
	}
	return nil
}

var errSecret = errors.New("expected at least 16 bytes where there is a webhook")

func checkSecret(text string) error {
	if text != "" && len(text) < minSecret {
		return errSecret
	}
	return nil
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
