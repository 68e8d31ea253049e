package browser

import (
	"os"
	"testing"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

func awaitPromise(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// A user chats. The operator signs in and switches the feature off with a notice. The
// user reads the notice and sends feedback. The operator reads the feedback, marks it
// as done, and switches the feature on again.
func TestConsole_OperatorSwitchesOffAndAUserReadsWhy(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	user, operator := openTab(t), openTab(t)

	user.run(chromedp.Navigate(s.url+"/"), chromedp.WaitReady("#model option"), chromedp.Click("#ask button"))
	user.until(".turn .meta", "opened and paid for this request")
	user.run(chromedp.Click("#ask button"))
	user.until(".turn .meta", "reused, nothing was paid")
	user.until("#sessions code", "0x")
	user.until("#status", "on")

	operator.signIn(s)
	operator.until("main", "for 100 %")
	operator.run(chromedp.Navigate(s.url+"/console/switch"), chromedp.WaitVisible("#notice"),
		chromedp.SendKeys("#notice", "Back at 18:00 UTC."))
	operator.until("#preview", "Back at 18:00 UTC.")
	operator.run(chromedp.SendKeys("#why-off", "errors above the limit"), chromedp.Click("form .check input"), chromedp.Click("button.danger"))
	operator.until(".flash", "The feature is off.")

	user.run(chromedp.Reload(), chromedp.WaitReady("#model option"))
	user.until("#notice", "Back at 18:00 UTC.")
	user.until("#status", "off")
	user.run(chromedp.SendKeys("#message", "It stopped in the middle."), chromedp.SendKeys("#rating", "2"), chromedp.Click("#feedback button"))
	user.until("#thanks", "Thank you.")

	operator.run(chromedp.Navigate(s.url + "/console/feedback?open=true"))
	operator.until(".said", "It stopped in the middle.")
	operator.run(chromedp.Click(".entry button"))
	operator.until(".flash", "Marked as done.")
	operator.run(chromedp.Navigate(s.url + "/console/audit"))
	operator.until("td", "console:ann")
	operator.run(chromedp.Navigate(s.url+"/console/switch"), chromedp.Click("button.primary"))
	operator.until(".flash", "The feature is on.")

	user.requestedOnly(s)
	operator.requestedOnly(s)
}

// Every page is accessible, no wider than its screen and small, in light and dark, on
// a desktop and a phone.
func TestConsole_EveryPageIsAccessible(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	if err := os.MkdirAll("screenshots", 0o755); err != nil {
		t.Fatal(err)
	}
	b := openTab(t)
	b.run(chromedp.Navigate(s.url+"/"), chromedp.WaitReady("#model option"), chromedp.Click("#ask button"))
	b.until(".turn .meta", "opened and paid")
	check := func(variant string) { b.checkAccessibility(variant) }
	b.screenshots("trial", check)
	b.run(chromedp.Navigate(s.url + "/docs/"))
	b.until("main", "/api/v1/automation/settings")
	b.screenshots("docs", check)
	b.run(chromedp.Navigate(s.url+"/console/"), chromedp.WaitVisible("#token"))
	b.screenshots("login", check)
	b.signIn(s)
	b.run(chromedp.Navigate(s.url+"/console/rollout"), chromedp.WaitVisible("button.primary"))
	b.screenshots("rollout-none", check)
	b.run(chromedp.Click("button.primary"))
	b.until(".flash", "The rollout has started.")
	for name, path := range map[string]string{
		"overview": "", "switch": "switch", "rollout": "rollout", "user": "user?id=alice", "sessions": "sessions", "models": "models?name=llama",
		"audit": "audit", "feedback": "feedback", "report": "report", "cleanup": "cleanup",
	} {
		b.run(chromedp.Navigate(s.url+"/console/"+path), chromedp.WaitVisible("main h1"))
		if heading := b.text("main h1"); heading == "Error" {
			t.Errorf("%s is an error page: %s", name, b.text("main"))
		}
		b.screenshots(name, check)
		var size float64
		b.run(chromedp.Evaluate(`performance.getEntriesByType("navigation")[0].encodedBodySize`, &size))
		if size > 300<<10 {
			t.Errorf("%s has %.0f bytes, over 300 KB", name, size)
		}
	}
	b.requestedOnly(s)
}
