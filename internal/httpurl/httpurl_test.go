package httpurl_test

import (
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw             string
		problem         string // of Parse; empty: none
		problemWithBase string // of ParseBase
	}{
		{"http://127.0.0.1:8082", "", ""},
		{"https://node.example.com/base/", "", ""},
		{"http://[::1]:8082", "", ""},
		{"https://node.example.com/feed?key=secret", "", "query or a fragment"},
		{"https://node.example.com/feed?", "", "query or a fragment"},
		{"https://node.example.com/#secret", "", "query or a fragment"},
		{"", "empty", "empty"},
		{"://secret", "cannot be parsed", "cannot be parsed"},
		{"http://secret\x7f/", "cannot be parsed", "cannot be parsed"},
		{"node.example.com:8082", "scheme", "scheme"},
		{"ftp://secret/", "scheme", "scheme"},
		{"/secret", "scheme", "scheme"},
		{"https://user:secret@node.example.com", "credentials", "credentials"},
		{"https://secret@node.example.com", "credentials", "credentials"},
		{"https:///secret", "no host", "no host"},
		{"https://:8082/secret", "no host", "no host"},
	} {
		check := func(name string, err error, problem string) {
			t.Helper()
			switch {
			case problem == "" && err != nil:
				t.Errorf("%s(%q): %v", name, c.raw, err)
			case problem != "" && (err == nil || !strings.Contains(err.Error(), problem)):
				t.Errorf("%s(%q): error %v, want one with %q", name, c.raw, err, problem)
			case problem != "" && strings.Contains(err.Error(), "secret"):
				t.Errorf("%s(%q): the error repeats the URL: %v", name, c.raw, err)
			}
		}
		u, err := httpurl.Parse(c.raw)
		check("Parse", err, c.problem)
		if err == nil && u.String() != c.raw {
			t.Errorf("Parse(%q) = %q", c.raw, u)
		}
		_, err = httpurl.ParseBase(c.raw)
		check("ParseBase", err, c.problemWithBase)
	}
}
