package automation_test

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

func ExampleParseConfig() {
	config, err := automation.ParseConfig(map[string]string{
		"AUTOMATION_FEATURE_ENABLED":    "true",
		"DEFAULT_SESSION_EXPIRATION":    "1800",
		"AUTOMATION_FLAG_POLL_INTERVAL": "500ms",
		"PROXY_ROUTER_PASSWORD":         "correct horse",
	})
	fmt.Println(config.FeatureEnabled, config.DefaultSessionDuration, config.FlagPollInterval, config.ProxyRouterPassword, err)
	// Output: true 30m0s 500ms [redacted] <nil>
}

func ExampleParseConfig_invalid() {
	_, err := automation.ParseConfig(map[string]string{
		"AUTOMATION_MIN_SESSION_SECONDS": "60",
		"AUTOMATION_SESSION_SCOPE":       "everybody",
		"AUTOMATION_SWEEP_INTERVAL":      "5 seconds",
		"PROXY_ROUTER_URL":               "http://admin:hunter2@node:8082",
	})
	fmt.Println(err)
	// Output:
	// automation: config:
	// AUTOMATION_MIN_SESSION_SECONDS: expected a whole number of seconds from 300, the chain's minimum, to 31536000, got "60"
	// AUTOMATION_SESSION_SCOPE: expected user or shared, got "everybody"
	// PROXY_ROUTER_URL: has credentials; expected a URL such as https://host:8082/path
	// AUTOMATION_SWEEP_INTERVAL: expected a duration such as 30s or 5m, from 10ms to 1h, got "5 seconds"
}

func ExampleDefaultConfig() {
	config := automation.DefaultConfig()
	config.SessionScope = automation.ScopeShared
	fmt.Println(config.DefaultSessionDuration, config.MaxOpensPerHour, config.SessionScope)
	// Output: 1h0m0s 10 shared
}

func TestDefaultConfig_HasTheDocumentedDefaults(t *testing.T) {
	want := automation.Config{
		DefaultSessionDuration: time.Hour,
		RetentionDays:          30,
		MinSessionDuration:     5 * time.Minute,
		MaxSessionDuration:     24 * time.Hour,
		SessionScope:           automation.ScopeUser,
		MaxOpensPerHour:        10,
		MaxOpensPerDay:         50,
		MaxSessionsPerUser:     4,
		MaxReplacementsPerHour: 3,
		ReconcileTimeout:       20 * time.Second,
		MaxBufferedBytes:       256 << 20,
		UnknownModel:           automation.UnknownModelReject,
		MappingsFile:           "model_mappings.json",
		FlagPollInterval:       time.Second,
		RolloutInterval:        2 * time.Second,
		MappingReloadInterval:  2 * time.Second,
		FeedRefreshInterval:    5 * time.Minute,
		SweepInterval:          5 * time.Second,
		CleanupInterval:        time.Hour,
		SessionLease:           30 * time.Second,
		SessionCoolDown:        30 * time.Second,
		SessionLinger:          300 * time.Millisecond,
		SessionMargin:          30 * time.Second,
		RenewAhead:             time.Minute,
		CloseAfter:             time.Minute,
		AcquireTimeout:         time.Minute,
		OpenTimeout:            3 * time.Minute,
		DrainTimeout:           30 * time.Second,
		MaxBodyBytes:           32 << 20,
		MaxDBConnections:       16,
	}
	if diff := cmp.Diff(want, automation.DefaultConfig()); diff != "" {
		t.Errorf("DefaultConfig (-want +got):\n%s", diff)
	}
	blank := map[string]string{}
	for _, v := range documentedVariables(t) {
		blank[v.name] = ""
	}
	if got, err := automation.ParseConfig(blank); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("with every variable empty: error %v, config (-want +got):\n%s", err, cmp.Diff(want, got))
	}
}

func TestParseConfig_SetsEveryField(t *testing.T) {
	environ := map[string]string{
		"AUTOMATION_FEATURE_ENABLED":           "true",
		"DEFAULT_SESSION_EXPIRATION":           " 1200\n",
		"AUTOMATION_RETENTION_DAYS":            "3650",
		"AUTOMATION_DEFAULT_OPT_IN":            "1",
		"AUTOMATION_MIN_SESSION_SECONDS":       "600",
		"AUTOMATION_MAX_SESSION_SECONDS":       "31536000",
		"AUTOMATION_SESSION_SCOPE":             "shared",
		"AUTOMATION_MAX_OPENS_PER_HOUR":        "0",
		"AUTOMATION_MAX_OPENS_PER_DAY":         "1",
		"AUTOMATION_MAX_SESSIONS_PER_USER":     "2",
		"AUTOMATION_MAX_OPEN_SESSIONS":         "3",
		"AUTOMATION_MAX_REPLACEMENTS_PER_HOUR": "4",
		"AUTOMATION_RECONCILE_TIMEOUT":         "22s",
		"AUTOMATION_MAX_BUFFERED_BYTES":        "2147483648",
		"AUTOMATION_PREWARM_MODELS":            "qwen:4b, ,Hermes 3 , QWEN:4B,",
		"AUTOMATION_UNKNOWN_MODEL":             "default",
		"MODEL_MAPPINGS_FILE":                  "/etc/map.json",
		"ACTIVE_MODELS_URL":                    "https://cdn/x@1/models.json?v=2",
		"PROXY_ROUTER_URL":                     "http://127.0.0.1:8082",
		"PROXY_ROUTER_USERNAME":                "admin",
		"PROXY_ROUTER_PASSWORD":                " $HOME ${x} ",
		"AUTOMATION_ADMIN_TOKEN":               "t0ken!-t0ken!-t0ken!",
		"AUTOMATION_FLAG_POLL_INTERVAL":        "10ms",
		"AUTOMATION_FLAG_SNAPSHOT_FILE":        "/var/lib/flags",
		"AUTOMATION_ROLLOUT_INTERVAL":          "9s",
		"AUTOMATION_ROLLOUT_WEBHOOK_URL":       "https://hooks.test/here",
		"AUTOMATION_ROLLOUT_WEBHOOK_SECRET":    "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
		"AUTOMATION_MAPPING_RELOAD_INTERVAL":   "11s",
		"AUTOMATION_FEED_REFRESH_INTERVAL":     "12s",
		"AUTOMATION_SWEEP_INTERVAL":            "13s",
		"AUTOMATION_CLEANUP_INTERVAL":          "14s",
		"AUTOMATION_SESSION_LEASE":             "15s",
		"AUTOMATION_SESSION_COOLDOWN":          "22s",
		"AUTOMATION_SESSION_LINGER":            "2s",
		"AUTOMATION_SESSION_MARGIN":            "16s",
		"AUTOMATION_RENEW_AHEAD":               "17s",
		"AUTOMATION_CLOSE_AFTER":               "0",
		"AUTOMATION_ACQUIRE_TIMEOUT":           "19s",
		"AUTOMATION_OPEN_TIMEOUT":              "20s",
		"AUTOMATION_DRAIN_TIMEOUT":             "21s",
		"AUTOMATION_MAX_BODY_BYTES":            "1073741824",
		"AUTOMATION_MAX_DB_CONNECTIONS":        "5",
	}
	want := automation.Config{
		FeatureEnabled: true, DefaultSessionDuration: 1200 * time.Second, RetentionDays: 3650, DefaultOptIn: true,
		MinSessionDuration: 600 * time.Second, MaxSessionDuration: 31536000 * time.Second, SessionScope: "shared",
		MaxOpensPerHour: 0, MaxOpensPerDay: 1, MaxSessionsPerUser: 2, MaxOpenSessions: 3,
		PrewarmModels: []string{"qwen:4b", "Hermes 3"}, UnknownModel: "default",
		MappingsFile: "/etc/map.json", ActiveModelsURL: "https://cdn/x@1/models.json?v=2",
		ProxyRouterURL: "http://127.0.0.1:8082", ProxyRouterUsername: "admin", ProxyRouterPassword: automation.NewSecret(" $HOME ${x} "),
		AdminToken:       automation.NewSecret("t0ken!-t0ken!-t0ken!"),
		FlagSnapshotFile: "/var/lib/flags", RolloutInterval: 9 * time.Second, RolloutWebhookURL: automation.NewSecret("https://hooks.test/here"),
		RolloutWebhookSecret: automation.NewSecret("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"),
		FlagPollInterval:     10 * time.Millisecond, MappingReloadInterval: 11 * time.Second, FeedRefreshInterval: 12 * time.Second,
		SweepInterval: 13 * time.Second, CleanupInterval: 14 * time.Second, SessionLease: 15 * time.Second, SessionCoolDown: 22 * time.Second, SessionLinger: 2 * time.Second,
		SessionMargin: 16 * time.Second, RenewAhead: 17 * time.Second, CloseAfter: 0,
		AcquireTimeout: 19 * time.Second, OpenTimeout: 20 * time.Second, DrainTimeout: 21 * time.Second,
		MaxBodyBytes: 1 << 30, MaxDBConnections: 5, MaxReplacementsPerHour: 4, ReconcileTimeout: 22 * time.Second, MaxBufferedBytes: 1 << 31,
	}
	got, err := automation.ParseConfig(environ)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	for _, v := range documentedVariables(t) {
		if _, ok := environ[v.name]; !ok {
			t.Errorf("this test does not set %s", v.name)
		}
	}
}

func TestLoadConfig_ReadsTheEnvironment(t *testing.T) {
	t.Setenv("AUTOMATION_RETENTION_DAYS", "7")
	config, err := automation.LoadConfig()
	if err != nil || config.RetentionDays != 7 {
		t.Errorf("RetentionDays %d, error %v; want 7", config.RetentionDays, err)
	}
}

func TestParseConfig_NamesInvalidValues(t *testing.T) {
	const minimum, maximum, standard = "AUTOMATION_MIN_SESSION_SECONDS", "AUTOMATION_MAX_SESSION_SECONDS", "DEFAULT_SESSION_EXPIRATION"
	for name, tt := range map[string]struct {
		environ map[string]string
		want    []string // the error's lines after the first
	}{
		"a word for a switch": {
			map[string]string{"AUTOMATION_FEATURE_ENABLED": "yes"},
			[]string{`AUTOMATION_FEATURE_ENABLED: expected true or false, got "yes"`},
		},
		"fewer seconds than the chain accepts": {
			map[string]string{maximum: "1m"},
			[]string{maximum + `: expected a whole number of seconds from 300, the chain's minimum, to 31536000, got "60"`},
		},
		"seconds that overflow": {
			map[string]string{maximum: "9223372036854775807"},
			[]string{maximum + `: expected a whole number of seconds from 300, the chain's minimum, to 31536000, got "9223372036854775807"`},
		},
		"no retention": {
			map[string]string{"AUTOMATION_RETENTION_DAYS": "0"},
			[]string{`AUTOMATION_RETENTION_DAYS: expected a whole number from 1 to 3650, got "0"`},
		},
		"days that overflow": {
			map[string]string{"AUTOMATION_RETENTION_DAYS": "213503982"},
			[]string{`AUTOMATION_RETENTION_DAYS: expected a whole number from 1 to 3650, got "213503982"`},
		},
		"a number with a point": {
			map[string]string{"AUTOMATION_MAX_OPENS_PER_DAY": "1.0"},
			[]string{`AUTOMATION_MAX_OPENS_PER_DAY: expected a whole number from 0 to 1000000, got "1.0"`},
		},
		"bytes out of bounds": {
			map[string]string{"AUTOMATION_MAX_BODY_BYTES": "1073741825"},
			[]string{`AUTOMATION_MAX_BODY_BYTES: expected a whole number from 1024 to 1073741824, got "1073741825"`},
		},
		"a lease too short for its heartbeat": {
			map[string]string{"AUTOMATION_SESSION_LEASE": "2999ms"},
			[]string{`AUTOMATION_SESSION_LEASE: expected a duration such as 30s or 5m, from 3s to 10m, got "2.999s"`},
		},
		"a negative interval": {
			map[string]string{"AUTOMATION_CLEANUP_INTERVAL": "-1s"},
			[]string{`AUTOMATION_CLEANUP_INTERVAL: expected a duration such as 30s or 5m, from 1s to 168h, got "-1s"`},
		},
		"a quoted value, as some env files leave it": {
			map[string]string{"AUTOMATION_UNKNOWN_MODEL": `"reject"`},
			[]string{`AUTOMATION_UNKNOWN_MODEL: expected reject or default, got "\"reject\""`},
		},
		"a very long value": {
			map[string]string{"AUTOMATION_UNKNOWN_MODEL": strings.Repeat("é", 1000)},
			[]string{`AUTOMATION_UNKNOWN_MODEL: expected reject or default, got "` + strings.Repeat("é", 20) + `…"`},
		},
		"bounds in the wrong order": {
			map[string]string{minimum: "4000", maximum: "3700"},
			[]string{
				standard + ": expected at least " + minimum,
				maximum + ": expected at least " + minimum,
			},
		},
		"a default above the maximum": {
			map[string]string{maximum: "3000"},
			[]string{standard + ": expected at most " + maximum},
		},
		"a default next to a maximum that cannot be parsed": {
			map[string]string{maximum: "4OOO", standard: "90000"},
			[]string{maximum + `: expected a whole number of seconds from 300, the chain's minimum, to 31536000, got "4OOO"`},
		},
		"margins as long as the shortest session": {
			map[string]string{"AUTOMATION_SESSION_MARGIN": "5m", "AUTOMATION_RENEW_AHEAD": "5m"},
			[]string{
				"AUTOMATION_SESSION_MARGIN: expected less than " + minimum,
				"AUTOMATION_RENEW_AHEAD: expected less than " + minimum,
			},
		},
		"addresses of the wrong shape": {
			map[string]string{"ACTIVE_MODELS_URL": "ftp://host/x", "PROXY_ROUTER_URL": "node:8082"},
			[]string{
				"ACTIVE_MODELS_URL: the scheme is neither http nor https; expected a URL such as https://host:8082/path",
				"PROXY_ROUTER_URL: the scheme is neither http nor https; expected a URL such as https://host:8082/path",
			},
		},
		"a node with a query": {
			map[string]string{"PROXY_ROUTER_URL": "http://node?x=1"},
			[]string{"PROXY_ROUTER_URL: has a query or a fragment; expected a URL such as https://host:8082/path"},
		},
		"less memory than one body needs": {
			map[string]string{"AUTOMATION_MAX_BUFFERED_BYTES": "2097152"},
			[]string{"AUTOMATION_MAX_BUFFERED_BYTES: expected at least AUTOMATION_MAX_BODY_BYTES"},
		},
		"a token that can be guessed": {
			map[string]string{"AUTOMATION_ADMIN_TOKEN": "0123456789abcde"},
			[]string{"AUTOMATION_ADMIN_TOKEN: expected at least 16 characters of printable ASCII, without spaces or line ends"},
		},
		"a user with a colon": {
			map[string]string{"PROXY_ROUTER_USERNAME": "a:b"},
			[]string{"PROXY_ROUTER_USERNAME: expected no colon: basic auth allows none"},
		},
		"secrets read from a file with its last line end": {
			map[string]string{"PROXY_ROUTER_PASSWORD": "x\n", "AUTOMATION_ADMIN_TOKEN": "0123456789abcdef\n"},
			[]string{
				"PROXY_ROUTER_PASSWORD: expected no line end or other control character",
				"AUTOMATION_ADMIN_TOKEN: expected at least 16 characters of printable ASCII, without spaces or line ends",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := automation.ParseConfig(tt.environ)
			if err == nil {
				t.Fatal("no error")
			}
			want := "automation: config:\n" + strings.Join(tt.want, "\n")
			if diff := cmp.Diff(want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if !reflect.DeepEqual(config, automation.Config{}) {
				t.Errorf("with the error came the config %+v, want the zero Config", config)
			}
		})
	}
}

func TestParseConfig_NamesEveryWrongVariableAtOnce(t *testing.T) {
	const canary = "c4n4ry"
	environ := map[string]string{}
	var want []string
	for _, v := range documentedVariables(t) {
		switch v.name {
		case "AUTOMATION_PREWARM_MODELS", "MODEL_MAPPINGS_FILE", "AUTOMATION_FLAG_SNAPSHOT_FILE": // accept any text
			continue
		}
		environ[v.name] = "\x01 :" + canary
		want = append(want, v.name)
	}
	_, err := automation.ParseConfig(environ)
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")[1:]
	var got []string
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		got = append(got, name)
		if regexp.MustCompile("PASSWORD|TOKEN|URL").MatchString(name) && strings.Contains(line, canary) {
			t.Error("the error repeats a secret:", line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables that the error names (-want +got):\n%s", diff)
	}
}

func TestConfig_RefusesValuesThatTheEnvironmentCannotHave(t *testing.T) {
	if err := (automation.Config{}).Check(); err == nil {
		t.Error("the zero Config passed the check")
	}
	config := automation.DefaultConfig()
	config.DefaultSessionDuration = 3600*time.Second + 1
	err := config.Check()
	if err == nil || !strings.Contains(err.Error(), `got "3600.000000001"`) {
		t.Errorf("a duration with a fraction of a second: error %v, want it refused", err)
	}
}

func TestUnknownVariables_ListsMisspeltNames(t *testing.T) {
	got := automation.UnknownIn(map[string]string{"AUTOMATION_RETENTION_DAY": "1", "AUTOMATION_ENABLE": "true", "AUTOMATION_RETENTION_DAYS": "1", "OTHER": "x"})
	if diff := cmp.Diff([]string{"AUTOMATION_ENABLE", "AUTOMATION_RETENTION_DAY"}, got); diff != "" {
		t.Errorf("unknown variables (-want +got):\n%s", diff)
	}
	t.Setenv("AUTOMATION_ENABLE", "true")
	if got := automation.UnknownVariables(); !slices.Contains(got, "AUTOMATION_ENABLE") {
		t.Errorf("unknown variables of the process are %q, want AUTOMATION_ENABLE among them", got)
	}
}
