package httpurl_test

import (
	"strings"
	"testing"

	"github.com/MorpheusAIs/gateway-automation/internal/httpurl"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw            string
		parseError     string // part of Parse's error; empty: none
		parseBaseError string // part of ParseBase's error; empty: none
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
		check := func(name string, err error, want string) {
			t.Helper()
			switch {
			case want == "" && err != nil:
				t.Errorf("%s(%q): error %v, want none", name, c.raw, err)
			case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
				t.Errorf("%s(%q): error %v, want one that contains %q", name, c.raw, err, want)
			case want != "" && strings.Contains(err.Error(), "secret"):
				t.Errorf("%s(%q): the error repeats the URL: %v", name, c.raw, err)
			}
		}
		u, err := httpurl.Parse(c.raw)
		check("Parse", err, c.parseError)
		if err == nil && u.String() != c.raw {
			t.Errorf("Parse(%q) = %q, want the same URL", c.raw, u)
		}
		_, err = httpurl.ParseBase(c.raw)
		check("ParseBase", err, c.parseBaseError)
	}
}
