package webhooksecret_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/webhooksecret"
)

func TestKey(t *testing.T) {
	t.Parallel()
	encode := func(n int) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", n))) }
	for _, n := range []int{24, 32, 64} {
		if key, err := webhooksecret.Key("whsec_" + encode(n)); err != nil || string(key) != strings.Repeat("k", n) {
			t.Errorf("a secret of %d bytes: key %q, error %v; want the bytes", n, key, err)
		}
	}
	for name, secret := range map[string]string{
		"nothing": "", "the prefix alone": "whsec_", "no prefix": encode(32), "too short": "whsec_" + encode(23), "too long": "whsec_" + encode(65),
		"not base64": "whsec_0123456789abcdef!0123456789abcdef", "an asymmetric key": "whsk_" + encode(32),
	} {
		key, err := webhooksecret.Key(secret)
		if err == nil {
			t.Errorf("%s: key %q, want an error", name, key)
		} else if len(secret) > len("whsec_") && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}
