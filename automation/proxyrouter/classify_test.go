package proxyrouter_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// classifier returns a client for Classify, which calls no node.
func classifier(t *testing.T) *proxyrouter.Client {
	t.Helper()
	return connect(t, "http://node.example.com:8082", func(o *proxyrouter.Options) {
		o.Now = func() time.Time { return time.Unix(1750000000, 0) }
	})
}

func TestClassify_FindsTheCause(t *testing.T) {
	type result struct {
		Cause          outcome.Cause
		Status         int
		Expired, Final bool
	}
	const session = outcome.Session
	for name, test := range map[string]struct {
		status int
		body   string
		want   result
	}{
		"an expired session":              {500, `{"error":"provider request failed: provider error: session expired"}`, result{session, 503, true, false}},
		"expired, in plain text":          {500, `Session Expired`, result{session, 503, true, false}},
		"an unknown session":              {500, `{"error":"session not found"}`, result{session, 503, false, false}},
		"the node lost its storage":       {500, `{"error":"provider not found"}`, result{session, 503, false, false}},
		"the provider lost its storage":   {500, `{"error":"provider request failed: provider error: user not found"}`, result{session, 503, false, false}},
		"expired, after a stream":         {200, `{"error":"provider request failed: session expired"}`, result{session, 503, true, false}},
		"the model's TEE":                 {500, `{"error":"LLM TEE verification failed: quote"}`, result{outcome.Provider, 502, false, true}},
		"the provider's TEE":              {502, `{"error":"p-node TEE attestation failed"}`, result{outcome.Provider, 502, false, true}},
		"cancelled in the queue":          {503, `{"error":"request cancelled while waiting in queue"}`, result{outcome.Provider, 502, false, true}},
		"another 500":                     {500, `{"error":"provider request failed"}`, result{outcome.Provider, 502, false, false}},
		"a timeout in a 500":              {500, `{"error":"provider request failed: read tcp: i/o timeout"}`, result{outcome.Provider, 504, false, false}},
		"a 504 without text":              {504, ``, result{outcome.Provider, 504, false, false}},
		"a proxy's page":                  {502, `<html>bad gateway</html>`, result{outcome.Provider, 502, false, false}},
		"another error after a stream":    {200, `{"error":"EOF"}`, result{outcome.Provider, 502, false, false}},
		"a rate limit of the node":        {429, `{"error":"rate limited"}`, result{outcome.Model, 429, false, false}},
		"a body the node rejects":         {400, `{"error":"json: cannot unmarshal string"}`, result{outcome.Client, 400, false, false}},
		"a route the node lacks":          {404, `404 page not found`, result{outcome.Client, 404, false, false}},
		"a body that is too large":        {413, ``, result{outcome.Client, 413, false, false}},
		"the gateway's credentials":       {401, `{"error":"invalid username or password"}`, result{outcome.Node, 503, false, false}},
		"the gateway's rights":            {403, `{"error":"session not found"}`, result{outcome.Node, 503, false, false}},
		"a redirect":                      {302, ``, result{outcome.Node, 503, false, false}},
		"switching protocols":             {101, ``, result{outcome.Node, 503, false, false}},
		"a status beyond 599":             {999, ``, result{outcome.Node, 503, false, false}},
		"the model's 429":                 {429, `{"providerModelError":{"error":{"message":"slow"}},"statusCode":429}`, result{outcome.Model, 429, false, false}},
		"the model's 503":                 {503, `{"providerModelError":"down","statusCode":503}`, result{outcome.Model, 503, false, false}},
		"the model's status in a 400":     {400, `{"providerModelError":{},"statusCode":503}`, result{outcome.Model, 503, false, false}},
		"the model's 422":                 {422, `{"providerModelError":{},"statusCode":422}`, result{outcome.Model, 422, false, false}},
		"the model's 400":                 {400, `{"providerModelError":{"error":{"message":"rate limit"}},"statusCode":400}`, result{outcome.Model, 400, false, false}},
		"old node: the user's mistake":    {400, `{"providerModelError":{"error":{"message":"too long","code":"context_length_exceeded"}}}`, result{outcome.Model, 400, false, false}},
		"old node: a rate limit":          {400, `{"providerModelError":{"error":{"message":"Rate limit reached"}}}`, result{outcome.Model, 429, false, false}},
		"old node: a rate limit, by code": {400, `{"providerModelError":{"error":{"message":"slow down","code":"rate_limit_exceeded"}}}`, result{outcome.Model, 429, false, false}},
		"old node: no capacity":           {400, `{"providerModelError":{"error":{"message":"The engine is currently overloaded"}}}`, result{outcome.Model, 503, false, false}},
		"old node: after a stream":        {200, `{"providerModelError":{"error":{"message":"oops"}}}`, result{outcome.Model, 502, false, false}},
		"the provider's own 401":          {401, `{"providerModelError":{"error":"bad key"},"statusCode":401}`, result{outcome.Provider, 502, false, false}},
		"the provider's own 403":          {403, `{"providerModelError":{}}`, result{outcome.Provider, 502, false, false}},
		"the provider's 404 in a 400":     {400, `{"providerModelError":{},"statusCode":404}`, result{outcome.Provider, 502, false, false}},
		"a model that says expired":       {400, `{"providerModelError":{"error":"session expired"},"statusCode":400}`, result{outcome.Model, 400, false, false}},
		"a model's error that is null":    {500, `{"providerModelError":null,"error":"session expired"}`, result{session, 503, true, false}},
		"a model's status that is 7":      {500, `{"providerModelError":{},"statusCode":7}`, result{outcome.Model, 500, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			e := classifier(t).Classify(test.status, nil, []byte(test.body))
			if diff := cmp.Diff(test.want, result{e.Cause, e.Status, e.Expired, e.Final}); diff != "" {
				t.Errorf("classification (-want +got):\n%s", diff)
			}
			if e.Message == "" {
				t.Error("the message is empty")
			}
		})
	}
}

func TestClassify_UnwrapsErrors(t *testing.T) {
	type texts struct{ Message, Code, Param, Type string }
	full := texts{"too long", "context_length_exceeded", "messages", "invalid_request_error"}
	const object = `{"message":"too long","code":"context_length_exceeded","param":"messages","type":"invalid_request_error"}`
	for name, test := range map[string]struct {
		body string
		want texts
	}{
		"an object in error":       {`{"providerModelError":{"error":` + object + `}}`, full},
		"an object alone":          {`{"providerModelError":` + object + `}`, full},
		"a text in error":          {`{"providerModelError":{"error":"too long"}}`, texts{Message: "too long"}},
		"a text alone":             {`{"providerModelError":"too long"}`, texts{Message: "too long"}},
		"an object as a message":   {`{"providerModelError":{"message":` + object + `}}`, full},
		"JSON as a message":        {`{"providerModelError":{"error":{"message":"{\"error\":` + strings.ReplaceAll(object, `"`, `\"`) + `}"}}}`, full},
		"JSON behind a text":       {`{"providerModelError":"error, status code: 400, message: ` + strings.ReplaceAll(object, `"`, `\"`) + `"}`, full},
		"the outer code stays":     {`{"providerModelError":{"error":{"code":"c","message":"{\"message\":\"m\"}"}}}`, texts{Message: "m", Code: "c"}},
		"numbers and nulls":        {`{"providerModelError":{"error":{"message":"m","code":429,"param":null,"type":null}}}`, texts{Message: "m", Code: "429"}},
		"neither text nor message": {`{"providerModelError":{"reason":"r"}}`, texts{Message: `{"reason":"r"}`}},
		"the node's own text":      {`{"error":"session not found"}`, texts{Message: "session not found"}},
		"no JSON":                  {`oops`, texts{Message: "oops"}},
		"nothing":                  {``, texts{Message: "The Morpheus node answered with an error."}},
	} {
		t.Run(name, func(t *testing.T) {
			e := classifier(t).Classify(400, nil, []byte(test.body))
			if diff := cmp.Diff(test.want, texts{e.Message, e.Code, e.Param, e.Type}); diff != "" {
				t.Errorf("texts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClassify_ReadsRetryAfter(t *testing.T) {
	for name, test := range map[string]struct {
		name, value string
		want        time.Duration
	}{
		"seconds":          {"Retry-After", "7", 7 * time.Second},
		"a fraction":       {"Retry-After", "0.5", 500 * time.Millisecond},
		"a date":           {"Retry-After", time.Unix(1750000090, 0).UTC().Format(http.TimeFormat), 90 * time.Second},
		"a date long past": {"Retry-After", time.Unix(1, 0).UTC().Format(http.TimeFormat), 0},
		"milliseconds":     {"Retry-After-Ms", "1500", 1500 * time.Millisecond},
		"a negative one":   {"Retry-After", "-7", 0},
		"too long":         {"Retry-After", "1e300", 24 * time.Hour},
		"not a number":     {"Retry-After", "NaN", 0},
		"a word":           {"Retry-After", "soon", 0},
		"none":             {"X-Other", "7", 0},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{}
			header.Set(test.name, test.value)
			if got := classifier(t).Classify(429, header, nil).RetryAfter; got != test.want {
				t.Errorf("RetryAfter is %v, want %v", got, test.want)
			}
		})
	}
}

func TestClassify_RedactsTexts(t *testing.T) {
	account := "0x" + strings.Repeat("aB", 20)
	for name, test := range map[string]struct{ text, secret string }{
		"the password":          {"user " + username + ":" + password, password},
		"the node's address":    {"Post http://node.example.com:8082/v1: EOF", "node.example.com"},
		"the node's host":       {"lookup of node.example.com failed", "node.example.com"},
		"an IP address":         {"dial tcp 10.1.2.3:3333: connect: connection refused", "10.1.2.3"},
		"a connection's ends":   {"read tcp 10.1.2.3:1->10.4.5.6:2: i/o timeout", "10.4.5.6"},
		"an IPv6 address":       {"connect to [fd00::1]:3333 failed", "fd00::1"},
		"a provider's endpoint": {"provider.example.org:3333 is down", "provider.example.org"},
		"a backend":             {"POST https://inference.internal/v1?key=1 failed", "inference.internal"},
		"localhost":             {"localhost:11434 refused", "11434"},
		"an account":            {"wallet " + account, account},
		"a key":                 {"key " + strings.Repeat("ab", 32), strings.Repeat("ab", 32)},
		"an e-mail address":     {"contact ops@example.com", "ops@example.com"},
		"an API key":            {"Incorrect API key provided: sk-proj-abcdEFGH12345678", "abcdEFGH"},
		"a URL that was called": {"Post https://api.example.org/v1/chat/completions: EOF", "example.org"},
		"a cluster's service":   {"see https://models.default.svc.cluster.local/docs", "default"},
		"a bare host":           {"see https://backend/docs", "backend"},
		"an IP in a URL":        {"see http://10.1.2.3/docs", "10.1.2.3"},
		"a host named by IP":    {"see https://ip-10-1-2-3.example.org/docs", "10-1-2-3"},
		"a port":                {"see https://docs.example.org:8443/docs", "8443"},
		"a password in a URL":   {"see https://someone:hunter2@docs.example.org/docs", "hunter2"},
		"a key in a path":       {"see https://arb.example.org/v2/AbCdEfGh12", "AbCdEfGh12"},
		"a hexadecimal key":     {"see https://arb.example.org/v2/0123456789abcdef", "0123456789abcdef"},
		"a key in a query":      {"see https://docs.example.org/docs?token=hunter2", "hunter2"},
		"a database's URL":      {"see postgres://db.example.org/gateway", "db.example.org"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, body := range []string{`{"error":"` + test.text + `"}`, `{"providerModelError":{"error":{"message":"` + test.text + `","code":"` + test.text + `"}}}`} {
				e := classifier(t).Classify(500, nil, []byte(body))
				if strings.Contains(e.Message+e.Code, test.secret) {
					t.Errorf("%q is not redacted in %+v", test.secret, e)
				}
			}
		})
	}
	e := classifier(t).Classify(401, nil, []byte(`{"error":"invalid basic auth for admin2"}`))
	if e.Message != "The Morpheus node refused the gateway's credentials." {
		t.Errorf("the message of a 401 is %q, want none of the node's text", e.Message)
	}
	plain := "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens (v1.2, 3:4)."
	if got := classifier(t).Classify(400, nil, []byte(`{"error":"`+plain+`"}`)).Message; got != plain {
		t.Errorf("a text without secrets became %q", got)
	}
}

// A model's own error may link to a page that helps. A URL in the node's own text
// is an address that it called.
func TestClassify_KeepsAModelsLinks(t *testing.T) {
	for text, want := range map[string]string{ // "" is the text unchanged
		"Rate limit reached. Visit https://platform.openai.com/account/rate-limits to learn more.":    "",
		"You can find your usage at https://example.org/docs/error-codes.":                            "",
		"See https://docs.example.org/models/gpt-4o-2024-08-06, or (https://example.com).":            "",
		"See https://docs.example.org/guide?utm=1#limits.":                                            "See https://docs.example.org/guide.",
		"See https://docs.example.org/Files/AbCdEfGh and https://docs.example.org/a/b":                "See https://docs.example.org/[redacted] and https://docs.example.org/a/b",
		"See https://node.example.com/docs and https://docs.example.org/help":                         "See [redacted] and https://docs.example.org/help",
		"GET https://api.example.org/v1/models failed, see https://docs.example.org/help for reasons": "GET [redacted] failed, see https://docs.example.org/help for reasons",
	} {
		if want == "" {
			want = text
		}
		e := classifier(t).Classify(429, nil, []byte(`{"providerModelError":{"error":{"message":"`+text+`"}},"statusCode":429}`))
		if e.Message != want {
			t.Errorf("%q\nbecame %q\nwant   %q", text, e.Message, want)
		}
		e = classifier(t).Classify(500, nil, []byte(`{"error":"`+text+`"}`))
		if strings.Contains(e.Message, "://") {
			t.Errorf("the message of an error of the node keeps a URL: %q", e.Message)
		}
	}
}

// Every preset with which a chat gets a complete error response.
func TestClassify_UnderstandsTheSimulatedNodesPresets(t *testing.T) {
	type result struct {
		Cause  outcome.Cause
		Status int
		Code   string
	}
	for name, want := range map[string]result{
		"chat-not-found":        {outcome.Session, 503, ""},
		"chat-expired":          {outcome.Session, 503, ""},
		"lost-storage":          {outcome.Session, 503, ""},
		"provider-lost-storage": {outcome.Session, 503, ""},
		"provider-down":         {outcome.Provider, 502, ""},
		"tee-failed":            {outcome.Provider, 502, ""},
		"model-context-length":  {outcome.Model, 400, "context_length_exceeded"},
		"model-content-filter":  {outcome.Model, 400, "content_filter"},
		"model-rate-limit":      {outcome.Model, 429, "rate_limit_exceeded"},
		"model-overloaded":      {outcome.Model, 503, ""},
		"switching-protocols":   {outcome.Node, 503, ""},
		"redirect":              {outcome.Node, 503, ""},
		"credentials-refused":   {outcome.Node, 503, ""},
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, old node: %t", name, old), func(t *testing.T) {
				node, c := start(t, proxyroutertest.Options{})
				id := open(t, c)
				if old {
					node.Inject(proxyroutertest.Fault{Name: "old-node"})
				}
				node.Inject(proxyroutertest.Fault{Name: name})
				resp, err := c.Forward(t.Context(), chatOn(id))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close() //nolint:errcheck // read to its end
				var body []byte
				if resp.StatusCode >= 200 {
					if body, err = io.ReadAll(resp.Body); err != nil {
						t.Fatal(err)
					}
				}
				e := c.Classify(resp.StatusCode, resp.Header, body)
				if diff := cmp.Diff(want, result{e.Cause, e.Status, e.Code}); diff != "" {
					t.Errorf("classification (-want +got):\n%s", diff)
				}
				if name == "model-rate-limit" && !old && e.RetryAfter != 7*time.Second {
					t.Errorf("RetryAfter is %v, want 7 s", e.RetryAfter)
				}
			})
		}
	}
}
