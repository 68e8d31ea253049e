package automation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/MorpheusAIs/gateway-automation/internal/text"
)

// variables is the table of the environment, in the order of Config's fields:
// each variable with its default, its field, and what may be there.
func (c *Config) variables() []variable {
	const (
		forever = 365 * 24 * time.Hour
		many    = 1_000_000
	)
	return []variable{
		flagOf("AUTOMATION_FEATURE_ENABLED", "false", &c.FeatureEnabled),
		units("DEFAULT_SESSION_EXPIRATION", "3600", &c.DefaultSessionDuration, time.Second, 300*time.Second, forever),
		units("AUTOMATION_RETENTION_DAYS", "30", &c.Retention, day, day, 3650*day),
		flagOf("AUTOMATION_DEFAULT_OPT_IN", "false", &c.DefaultOptIn),
		units("AUTOMATION_MIN_SESSION_SECONDS", "300", &c.MinSessionDuration, time.Second, 300*time.Second, forever).
			because("the chain refuses shorter sessions"),
		units("AUTOMATION_MAX_SESSION_SECONDS", "86400", &c.MaxSessionDuration, time.Second, 300*time.Second, forever),
		choice("AUTOMATION_SESSION_SCOPE", &c.SessionScope, ScopeUser, ScopeShared),
		number("AUTOMATION_MAX_OPENS_PER_HOUR", "10", &c.MaxOpensPerHour, 0, many),
		number("AUTOMATION_MAX_OPENS_PER_DAY", "50", &c.MaxOpensPerDay, 0, many),
		number("AUTOMATION_MAX_SESSIONS_PER_USER", "4", &c.MaxSessionsPerUser, 1, many),
		number("AUTOMATION_MAX_OPEN_SESSIONS", "0", &c.MaxOpenSessions, 0, many),
		list("AUTOMATION_PREWARM_MODELS", &c.PrewarmModels),
		choice("AUTOMATION_UNKNOWN_MODEL", &c.UnknownModel, UnknownModelReject, UnknownModelDefault),
		line("MODEL_MAPPINGS_FILE", "model_mappings.json", &c.MappingsFile, nil),
		line("ACTIVE_MODELS_URL", "", &c.ActiveModelsURL, checkURL),
		line("PROXY_ROUTER_URL", "", &c.ProxyRouterURL, checkBaseURL),
		line("PROXY_ROUTER_USERNAME", "", &c.ProxyRouterUsername, checkUsername),
		secret("PROXY_ROUTER_PASSWORD", &c.ProxyRouterPassword, checkLine),
		secret("AUTOMATION_ADMIN_TOKEN", &c.AdminToken, checkToken),
		span("AUTOMATION_FLAG_POLL_INTERVAL", "1s", &c.FlagPollInterval, 10*time.Millisecond, time.Hour),
		line("AUTOMATION_FLAG_SNAPSHOT_FILE", "", &c.FlagSnapshotFile, nil),
		span("AUTOMATION_ROLLOUT_INTERVAL", "2s", &c.RolloutInterval, 10*time.Millisecond, 10*time.Minute),
		secret("AUTOMATION_ROLLOUT_WEBHOOK_URL", &c.RolloutWebhookURL, checkURL),
		secret("AUTOMATION_ROLLOUT_WEBHOOK_SECRET", &c.RolloutWebhookSecret, checkSecret),
		span("AUTOMATION_MAPPING_RELOAD_INTERVAL", "2s", &c.MappingReloadInterval, 10*time.Millisecond, time.Hour),
		span("AUTOMATION_FEED_REFRESH_INTERVAL", "5m", &c.FeedRefreshInterval, time.Second, 24*time.Hour),
		span("AUTOMATION_SWEEP_INTERVAL", "5s", &c.SweepInterval, 10*time.Millisecond, time.Hour),
		span("AUTOMATION_CLEANUP_INTERVAL", "1h", &c.CleanupInterval, time.Second, 168*time.Hour),
		span("AUTOMATION_SESSION_LEASE", "30s", &c.SessionLease, 3*time.Second, 10*time.Minute),
		span("AUTOMATION_SESSION_MARGIN", "30s", &c.SessionMargin, 0, time.Hour),
		span("AUTOMATION_RENEW_AHEAD", "1m", &c.RenewAhead, 0, time.Hour),
		span("AUTOMATION_CLOSE_AFTER", "1m", &c.CloseAfter, 0, time.Hour),
		span("AUTOMATION_ACQUIRE_TIMEOUT", "1m", &c.AcquireTimeout, 100*time.Millisecond, 30*time.Minute),
		span("AUTOMATION_OPEN_TIMEOUT", "3m", &c.OpenTimeout, time.Second, 30*time.Minute),
		span("AUTOMATION_DRAIN_TIMEOUT", "30s", &c.DrainTimeout, 0, 30*time.Minute),
		number("AUTOMATION_MAX_BODY_BYTES", "33554432", &c.MaxBodyBytes, 1024, 1<<30),
		number("AUTOMATION_MAX_DB_CONNECTIONS", "16", &c.MaxDBConnections, 1, 10_000),
	}
}

const day = 24 * time.Hour

// variable is one variable of the environment and its field.
type variable struct {
	name     string
	fallback string // what stands for an empty one
	bounds   string // for the documentation; empty where anything goes
	secret   bool   // white space belongs to it
	// set stores what text means; its error repeats no secret.
	set func(text string) error
	// check reports what is wrong with the field as it is.
	check func() error
}

// read sets the field. After an error it has its default, so that comparing it
// with others means something.
func (v variable) read(text string) error {
	if !v.secret {
		text = strings.TrimSpace(text)
	}
	if text == "" {
		text = v.fallback
	}
	err := v.set(text)
	if err != nil {
		_ = v.set(v.fallback)
	}
	return err
}

// because adds the reason of the bounds to the complaints about them.
func (v variable) because(reason string) variable {
	set, check := v.set, v.check
	add := func(err error) error {
		if err != nil {
			err = fmt.Errorf("%w: %s", err, reason)
		}
		return err
	}
	v.set = func(text string) error { return add(set(text)) }
	v.check = func() error { return add(check()) }
	return v
}

// unexpected says what was expected. Only bounded kinds come here, so that got
// is no secret; it is cut all the same.
func unexpected(expected, got string) error {
	return fmt.Errorf("expected %s, got %q", expected, text.Truncate(got, 43))
}

func noError() error { return nil }

func flagOf(name, fallback string, field *bool) variable {
	set := func(text string) (err error) {
		if *field, err = strconv.ParseBool(text); err != nil {
			return unexpected("true or false", text)
		}
		return nil
	}
	return variable{name: name, fallback: fallback, set: set, check: noError}
}

// number is a whole number from low to high.
func number[T int | int64](name, fallback string, field *T, low, high T) variable {
	expected := fmt.Sprintf("a whole number from %d to %d", low, high)
	set := func(text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < int64(low) || n > int64(high) {
			return unexpected(expected, text)
		}
		*field = T(n)
		return nil
	}
	check := func() error {
		if *field < low || *field > high {
			return unexpected(expected, strconv.FormatInt(int64(*field), 10))
		}
		return nil
	}
	return variable{name: name, fallback: fallback, bounds: fmt.Sprintf("%d to %d", low, high), set: set, check: check}
}

// units is a duration that is written as a whole number of its unit.
func units(name, fallback string, field *time.Duration, unit, low, high time.Duration) variable {
	noun := map[time.Duration]string{time.Second: "seconds", day: "days"}[unit]
	expected := fmt.Sprintf("a whole number of %s from %d to %d", noun, low/unit, high/unit)
	set := func(text string) error {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < int64(low/unit) || n > int64(high/unit) {
			return unexpected(expected, text)
		}
		*field = time.Duration(n) * unit
		return nil
	}
	check := func() error {
		if *field < low || *field > high || *field%unit != 0 {
			return unexpected(expected, field.String())
		}
		return nil
	}
	return variable{name: name, fallback: fallback, bounds: fmt.Sprintf("%d to %d %s", low/unit, high/unit, noun), set: set, check: check}
}

// span is a duration that is written like 30s.
func span(name, fallback string, field *time.Duration, low, high time.Duration) variable {
	expected := fmt.Sprintf("a duration such as %s, from %s to %s", fallback, short(low), short(high))
	check := func() error {
		if *field < low || *field > high {
			return unexpected(expected, short(*field))
		}
		return nil
	}
	set := func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil {
			return unexpected(expected, text)
		}
		*field = d
		return check()
	}
	return variable{name: name, fallback: fallback, bounds: short(low) + " to " + short(high), set: set, check: check}
}

// short writes a duration as people do: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// choice is one of a few words, the first of which is the default.
func choice[T ~string](name string, field *T, choices ...T) variable {
	words := make([]string, len(choices))
	for i, c := range choices {
		words[i] = string(c)
	}
	check := func() error {
		if !slices.Contains(choices, *field) {
			return unexpected(strings.Join(words, " or "), string(*field))
		}
		return nil
	}
	set := func(text string) error { *field = T(text); return check() }
	return variable{name: name, fallback: words[0], bounds: strings.Join(words, ", "), set: set, check: check}
}

// list is words between commas.
func list(name string, field *[]string) variable {
	set := func(text string) error {
		*field = nil
		if text != "" {
			*field = strings.Split(text, ",")
		}
		return nil
	}
	return variable{name: name, set: set, check: noError}
}

// line is a text that is no secret.
func line(name, fallback string, field *string, valid func(string) error) variable {
	check := noError
	if valid != nil {
		check = func() error { return valid(*field) }
	}
	set := func(text string) error { *field = text; return check() }
	return variable{name: name, fallback: fallback, set: set, check: check}
}

// secret is a text that no error repeats.
func secret(name string, field *Secret, valid func(string) error) variable {
	check := noError
	if valid != nil {
		check = func() error { return valid(field.Reveal()) }
	}
	set := func(text string) error { *field = NewSecret(text); return check() }
	return variable{name: name, secret: true, set: set, check: check}
}

func isControl(r rune) bool { return unicode.IsControl(r) }
