package proxyrouter_test

import (
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
)

func TestNew_RejectsBadOptionsWithoutRepeatingThem(t *testing.T) {
	const secret = "s3cr3t"
	for name, test := range map[string]struct {
		opts proxyrouter.Options
		want []string
	}{
		"an empty URL":                {proxyrouter.Options{}, []string{"URL", "empty", "http"}},
		"a URL with credentials":      {proxyrouter.Options{URL: "http://u:" + secret + "@host"}, []string{"URL", "has credentials"}},
		"a URL that cannot be parsed": {proxyrouter.Options{URL: "http://u:" + secret + "%zz@host"}, []string{"URL", "cannot be parsed"}},
		"a URL of another scheme":     {proxyrouter.Options{URL: "ftp://" + secret}, []string{"URL", "neither http nor https"}},
		"a URL without a scheme":      {proxyrouter.Options{URL: secret + ":8082"}, []string{"URL"}},
		"a URL without a host":        {proxyrouter.Options{URL: "http://:8082/" + secret}, []string{"URL", "no host"}},
		"a URL with a query":          {proxyrouter.Options{URL: "http://host/?key=" + secret}, []string{"URL", "query"}},
		"a URL with a fragment":       {proxyrouter.Options{URL: "http://host/#" + secret}, []string{"URL", "fragment"}},
		"a user name with a colon":    {proxyrouter.Options{URL: "http://host", Username: "a:" + secret}, []string{"Username", "colon"}},
		"everything wrong at once":    {proxyrouter.Options{OpenTimeout: -1, BreakerPause: -time.Second, Username: ":"}, []string{"URL", "OpenTimeout", "BreakerPause", "Username"}},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := proxyrouter.New(test.opts)
			if err == nil || c != nil {
				t.Fatalf("New = %v, %v; want no client and an error", c, err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error %q does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error %q repeats the secret", err)
			}
		})
	}
}

func TestNew_AcceptsAURLWithAPath(t *testing.T) {
	for _, url := range []string{"http://host", "https://host:8082/", "http://[::1]:8082/node/1"} {
		if _, err := proxyrouter.New(proxyrouter.Options{URL: url}); err != nil {
			t.Errorf("New(%q): %v", url, err)
		}
	}
}
