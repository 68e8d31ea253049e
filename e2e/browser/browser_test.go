// Package browser drives the operators' console and the trial page in a real
// Chromium, against the example server.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/proctest"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// token is the operators' token of the server.
const token = "a-token-of-the-tests"

// testTimeout bounds every wait for the browser or the server. A failing stage is
// rolled back after two minutes at the earliest.
const testTimeout = 8 * time.Minute

// required makes a missing program a failure instead of a skip.
var required = os.Getenv("AUTOMATION_TEST_REQUIRE_BROWSER") != ""

// skipWithout skips the test because a program is not installed, or fails it if the
// program is required.
func skipWithout(t *testing.T, what string) {
	t.Helper()
	if required {
		t.Fatal(what + " is not installed, and AUTOMATION_TEST_REQUIRE_BROWSER is set")
	}
	t.Skip(what + " is not installed")
}

// folder has the binary of the example server. TestMain removes it.
var folder string

// build builds the example server, once for all tests.
var build = sync.OnceValues(func() (program string, err error) {
	if folder, err = os.MkdirTemp("", "browser"); err != nil {
		return "", err
	}
	program = filepath.Join(folder, "server")
	out, err := exec.Command("go", "build", "-C", "../..", "-o", program, "./examples/server").CombinedOutput() // in its own module
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if folder != "" {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

// server is the example server, as a process.
type server struct{ url string }

func startServer(t *testing.T, env ...string) *server {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	s := proctest.StartServer(t, program, t.TempDir(), append([]string{"AUTOMATION_ADMIN_TOKEN=" + token, "AUTOMATION_FLAG_POLL_INTERVAL=100ms"}, env...)...)
	return &server{s.URL}
}

// tab is one tab of a browser with its own cookies.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	requests []string // the URLs of all requests
}

func openTab(t *testing.T) *tab {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		skipWithout(t, "chromium")
	}
	// The allocator makes the folder of the browser's profile, and removes it after the
	// processes have ended. A folder of t.TempDir would be removed while they still write.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WSURLReadTimeout(testTimeout))
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator, chromedp.WithErrorf(func(string, ...any) {})) // chromedp logs events of a newer Chromium that it does not know
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		if r, ok := event.(*network.EventRequestWillBeSent); ok {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.requests = append(b.requests, r.Request.URL)
		}
	})
	if err := chromedp.Run(ctx, network.Enable()); err != nil { // this starts the browser; a time-out of ctx would also end it
		t.Fatal(err)
	}
	return b
}

func (b *tab) run(actions ...chromedp.Action) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, testTimeout)
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// until waits for an element with a text, on this page or on the next one if the
// browser is about to load it.
func (b *tab) until(selector, text string) {
	b.t.Helper()
	script := fmt.Sprintf(`[...document.querySelectorAll(%q)].some(e => e.textContent.includes(%q))`, selector, text)
	ctx, cancel := context.WithTimeout(b.ctx, testTimeout)
	defer cancel()
	for {
		var found bool
		err := chromedp.Run(ctx, chromedp.Evaluate(script, &found)) // fails while the page changes
		if err == nil && found {
			return
		}
		if chromedp.Run(ctx, chromedp.Sleep(100*time.Millisecond)) != nil {
			b.t.Fatalf("no element %s has the text %q: %v", selector, text, err)
		}
	}
}

func (b *tab) text(selector string) (text string) {
	b.t.Helper()
	b.run(chromedp.Text(selector, &text, chromedp.ByQuery))
	return text
}

// signIn signs in to the console with the token, as ann.
func (b *tab) signIn(s *server) {
	b.t.Helper()
	b.run(chromedp.Navigate(s.url+"/console/"), chromedp.WaitVisible("#token"), chromedp.SendKeys("#name", "ann"), chromedp.SendKeys("#token", token),
		chromedp.Submit("#token"), chromedp.WaitVisible("nav"))
}

// checkAccessibility fails the test for every serious finding of axe-core.
func (b *tab) checkAccessibility(page string) {
	b.t.Helper()
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		skipWithout(b.t, "axe-core (run npm install in e2e/browser)")
	}
	var result string
	b.run(chromedp.Evaluate(string(axe)+"\n;undefined", nil), chromedp.Evaluate(`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(
		r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(v => v.id + ": " + v.help + " at " + v.nodes.map(n => n.target.join(" ")).join(", "))))`,
		&result, chromedp.EvalAsValue, awaitPromise))
	var findings []string
	if err := json.Unmarshal([]byte(result), &findings); err != nil {
		b.t.Fatal(err)
	}
	for _, finding := range findings {
		b.t.Errorf("%s: %s", page, finding)
	}
}

// screenshots saves pictures of the page on a desktop and a phone, light and dark, in
// a folder that git ignores. It fails the test if the page is wider than its screen,
// and calls check, unless it is nil, for each desktop variant.
func (b *tab) screenshots(name string, check func(variant string)) {
	b.t.Helper()
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"desktop", 1440, 900}, {"phone", 375, 812}} {
		for _, scheme := range []string{"light", "dark"} {
			var picture []byte
			b.run(chromedp.EmulateViewport(size.width, size.height),
				emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
				chromedp.FullScreenshot(&picture, 100))
			variant := name + "-" + size.name + "-" + scheme
			if err := os.WriteFile(filepath.Join("screenshots", variant+".png"), picture, 0o644); err != nil {
				b.t.Fatal(err)
			}
			var overflow bool
			b.run(chromedp.Evaluate(`document.documentElement.scrollWidth > document.documentElement.clientWidth + 1`, &overflow))
			if overflow {
				b.t.Errorf("%s is wider than its screen", variant)
			}
			if check != nil && size.name == "desktop" {
				check(variant)
			}
		}
	}
}

// requestedOnly fails the test for each request of the tab to another host than the
// server.
func (b *tab) requestedOnly(s *server) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	host := strings.TrimPrefix(s.url, "http://")
	for _, address := range b.requests {
		u, err := url.Parse(address)
		if err != nil || u.Host != host && u.Scheme != "data" && u.Scheme != "about" && u.Scheme != "chrome" {
			b.t.Errorf("the page requested %s, which is not on the server", address)
		}
	}
	if len(b.requests) == 0 {
		b.t.Error("the tab has made no request: are they recorded?")
	}
}
