package proxyroutertest

import (
	"strings"
	"testing"

	gatewaysession "github.com/MorpheusAIs/gateway-automation/automation/session"
)

// FuzzParseID looks for ids that the node and the gateway parse differently. With
// such an id a user could use another user's session.
func FuzzParseID(f *testing.F) {
	full := strings.Repeat("0aB", 22)[:64]
	for _, seed := range []string{
		"", "0x", full, "0x" + full, "0X" + full, full[1:], "0x" + full[1:], full + "0", "0x0x" + full[2:], " " + full, full[:63] + "g", "０x" + full, full + "\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		node, nodeErr := parseID(text)
		gateway, err := gatewaysession.ParseID(text)
		if (err == nil) != (nodeErr == nil) || node != string(gateway) {
			t.Errorf("%q is %q (%v) to the node and %q (%v) to the gateway", text, node, nodeErr, gateway, err)
		}
	})
}
