package automation_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation"
)

func TestSecret_IsNeverPrinted(t *testing.T) {
	const canary = "c4n4ry"
	config := automation.DefaultConfig()
	secret := automation.NewSecret(canary)
	config.ProxyRouterPassword, config.AdminToken, config.RolloutWebhookURL = secret, secret, automation.NewSecret("https://u:"+canary+"@h/d")
	nested := struct {
		Config     *automation.Config
		unexported automation.Config
		List       []automation.Secret
		Map        map[automation.Secret]automation.Secret
	}{&config, config, []automation.Secret{secret}, map[automation.Secret]automation.Secret{secret: secret}}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%10.3s", "%p", "%T"} {
		fmt.Fprintf(&out, verb+"\n", config)
		fmt.Fprintf(&out, verb+"\n", &config)
		fmt.Fprintf(&out, verb+"\n", nested)
		fmt.Fprintf(&out, verb+"\n", config.AdminToken)
	}
	options := &slog.HandlerOptions{Level: slog.LevelDebug}
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, options), slog.NewTextHandler(&out, options)} {
		slog.New(handler).Info("x", "config", config, "pointer", &config, "nested", nested, "token", config.AdminToken)
	}
	for _, v := range []any{config, nested, config.AdminToken} {
		if err := json.NewEncoder(&out).Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the output contains the secret as %s:\n%s", form, out.String())
		}
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Error("the output has no [redacted], so nothing shows that a secret is set")
	}
	if got := fmt.Sprint(automation.NewSecret("")); got != "" {
		t.Errorf("an empty secret prints %q, want nothing", got)
	}
}
