package proxyroutertest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var model = proxyroutertest.ModelID("llama")

// person calls a node the plain way.
type caller struct {
	t    *testing.T
	node *proxyroutertest.Server
	http *http.Client
}

func start(t *testing.T, opts proxyroutertest.Options) caller {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return caller{t: t, node: proxyroutertest.NewServer(t, opts), http: &http.Client{Transport: tr}}
}

// answer is what a test looks at.
type answer struct {
	StatusCode int
	Header     http.Header
}

// send returns the answer and its body; err is a connection that broke.
func (p caller) send(ctx context.Context, method, path, body string, header http.Header) (*answer, []byte, error) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, p.node.URL+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	raw, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, resp.Header}, raw, err
}

// call wants that status and returns the answer.
func (p caller) call(method, path, body string, header http.Header, status int) string {
	p.t.Helper()
	resp, raw, err := p.send(p.t.Context(), method, path, body, header)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != status {
		p.t.Fatalf("%s %s: %d %s, want %d", method, path, resp.StatusCode, raw, status)
	}
	return string(raw)
}

const openBody = `{"sessionDuration":3600,"directPayment":false,"failover":false}`

func (p caller) open() string {
	p.t.Helper()
	var got struct{ SessionID string }
	if err := json.Unmarshal([]byte(p.call("POST", "/blockchain/models/"+model+"/session", openBody, nil, 200)), &got); err != nil {
		p.t.Fatal(err)
	}
	return got.SessionID
}

func on(id string) http.Header { return http.Header{"Session_id": {id}} }

const hello = `{"messages":[{"role":"user","content":"hello there"}]}`

func wantText(t *testing.T, got string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(got, want) {
			t.Errorf("%s does not say %q", got, want)
		}
	}
}

// moment is a clock that a test moves.
type fakeClock struct{ time.Time }

func (m *fakeClock) now() time.Time { return m.Time }
