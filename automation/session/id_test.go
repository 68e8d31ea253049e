package session_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestParseID_ReturnsTheCanonicalForm(t *testing.T) {
	t.Parallel()
	const canonical = "0x0" + "123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, text := range map[string]string{
		"the canonical form":              canonical,
		"without 0x":                      canonical[2:],
		"upper case":                      strings.ToUpper(canonical[2:]),
		"prefix 0X":                       "0X" + canonical[2:],
		"without the leading zero":        "0x" + canonical[3:],
		"without the leading zero and 0x": canonical[3:],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if id, err := session.ParseID(text); err != nil || id.String() != canonical {
				t.Errorf("ParseID(%q) = %q, %v; want %q", text, id, err, canonical)
			}
		})
	}
}

func TestParseID_RejectsInvalidIDs(t *testing.T) {
	t.Parallel()
	digits := strings.Repeat("a", 64)
	for name, text := range map[string]string{
		"nothing":                            "",
		"0x alone":                           "0x",
		"too short":                          "0x" + digits[:62],
		"too long":                           "0x" + digits + "0",
		"0x twice":                           "0x0x" + digits[:62],
		"a letter that is no hex digit":      "0x" + digits[:63] + "g",
		"space around it":                    " 0x" + digits,
		"a letter whose lower case is ASCII": "0x" + digits[:60] + "\u212a",
		"a newline":                          digits + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if id, err := session.ParseID(text); err == nil || id != "" {
				t.Errorf("ParseID(%q) = %q, %v; want an error", text, id, err)
			}
		})
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("0x" + strings.Repeat("aB", 32))
	f.Add(strings.Repeat("0", 63))
	f.Fuzz(func(t *testing.T, text string) {
		id, err := session.ParseID(text)
		if err != nil {
			return
		}
		again, err := session.ParseID(id.String())
		if err != nil || again != id || len(id) != 66 {
			t.Errorf("ParseID(%q) = %q, which parses to %q, %v", text, id, again, err)
		}
	})
}

func ExampleParseID() {
	id, err := session.ParseID("0X" + strings.Repeat("AB", 32))
	fmt.Println(id, err)
	_, err = session.ParseID("mock-1")
	fmt.Println(err)
	// Output:
	// 0xabababababababababababababababababababababababababababababababab <nil>
	// session: not a session id
}
