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

// harness is a node and a plain HTTP client of it.
type harness struct {
	t    *testing.T
	node *proxyroutertest.Server
	http *http.Client
}

func start(t *testing.T, opts proxyroutertest.Options) harness {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return harness{t: t, node: proxyroutertest.NewServer(t, opts), http: &http.Client{Transport: tr}}
}

// answer is the status and the header of a response.
type answer struct {
	StatusCode int
	Header     http.Header
}

// send sends a request and returns the answer and its body. An error means that
// the connection broke.
func (h harness) send(ctx context.Context, method, path, body string, header http.Header) (*answer, []byte, error) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, h.node.URL+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	raw, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, resp.Header}, raw, err
}

// call sends a request, fails the test for any other status, and returns the body.
func (h harness) call(method, path, body string, header http.Header, status int) string {
	h.t.Helper()
	resp, raw, err := h.send(h.t.Context(), method, path, body, header)
	if err != nil {
		h.t.Fatal(err)
	}
	if resp.StatusCode != status {
		h.t.Fatalf("%s %s: status %d %s, want %d", method, path, resp.StatusCode, raw, status)
	}
	return string(raw)
}

const openBody = `{"sessionDuration":3600,"directPayment":false,"failover":false}`

// open opens a session and returns its id.
func (h harness) open() string {
	h.t.Helper()
	var got struct{ SessionID string }
	if err := json.Unmarshal([]byte(h.call("POST", "/blockchain/models/"+model+"/session", openBody, nil, 200)), &got); err != nil {
		h.t.Fatal(err)
	}
	return got.SessionID
}

// on returns the header of a request on a session.
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

// fakeClock is a clock that a test moves.
type fakeClock struct{ time.Time }

func (c *fakeClock) now() time.Time { return c.Time }
