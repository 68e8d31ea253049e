package browser

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/MorpheusAIs/gateway-automation/automation/automationtest"
	"github.com/MorpheusAIs/gateway-automation/automation/console"
)

// otherSite is a page of another site, with a form for the console and a frame of it.
const otherSite = `<!doctype html><title>another site</title>
<form id="forged" method="post" action="%[1]s"><input name="form" value="off"><input name="notice" value="forged"><input name="csrf" value="guess"></form>
<iframe id="frame" src="%[1]s"></iframe>`

// Another site can neither show the console of a signed-in operator in a frame, nor
// send its forms.
func TestConsole_RefusesOtherSites(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, otherSite, s.url+"/console/switch")
	}))
	t.Cleanup(other.Close)
	b := openTab(t)
	b.signIn(s)
	// For the browser, localhost is another site than 127.0.0.1.
	b.run(chromedp.Navigate(strings.Replace(other.URL, "127.0.0.1", "localhost", 1)), chromedp.WaitReady("#frame"))
	var framed string
	b.run(chromedp.Evaluate(`new Promise(done => {
		const f = document.createElement("iframe");
		f.onload = () => { try { done(f.contentDocument?.title ?? "blocked") } catch { done("blocked") } };
		f.src = document.getElementById("frame").src;
		document.body.append(f);
	})`, &framed, chromedp.EvalAsValue, awaitPromise))
	if framed != "blocked" && framed != "" {
		t.Errorf("the browser shows the console in a frame, with the title %q; want it blocked", framed)
	}
	b.run(chromedp.Evaluate(`document.getElementById("forged").submit()`, nil))
	b.until("body", "cross-origin request")
	b.run(chromedp.Navigate(s.url + "/console/"))
	b.until("main", "for 100 %")
	if html := b.text("main"); strings.Contains(html, "forged") {
		t.Errorf("the forged form has set the notice: %s", html)
	}
}

// For a read-only operator every button is disabled and says why, and a request without
// a button is refused.
func TestConsole_ReadOnlyOperatorCannotAct(t *testing.T) {
	t.Parallel()
	g := automationtest.New(t, automationtest.Options{})
	mux := http.NewServeMux()
	mux.Handle("/ops/", http.StripPrefix("/ops", console.New(g.Module, console.Options{
		Authorize: func(*http.Request) (console.Operator, error) {
			return console.Operator{Name: "bob", ReadOnly: true}, nil
		},
	})))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	b := openTab(t)
	for _, page := range []string{"switch", "rollout", "cleanup"} {
		b.run(chromedp.Navigate(server.URL + "/ops/" + page))
		b.until(".note", "Your role may not change anything")
		var enabled []string
		b.run(chromedp.Evaluate(`[...document.querySelectorAll("form[method=post] button")].filter(b => !b.disabled || b.title === "").map(b => b.outerHTML)`, &enabled))
		if len(enabled) > 0 {
			t.Errorf("%s: these buttons are enabled, or do not say why they are disabled: %v", page, enabled)
		}
	}
	var status int
	b.run(chromedp.Navigate(server.URL+"/ops/switch"), chromedp.WaitVisible("#notice"), chromedp.Evaluate(`fetch("switch", {method: "POST", body: new URLSearchParams(
		{csrf: document.querySelector("[name=csrf]").value, form: "off", notice: "by a request"})}).then(r => r.status)`, &status, awaitPromise))
	if status != http.StatusForbidden {
		t.Errorf("a request without a button: status %d, want 403", status)
	}
	b.run(chromedp.Reload())
	b.until("h2", "Switch the feature off") // the feature is still on
}
