package browser

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// startChats sends a chat every quarter of a second, each of a new user, until stop is
// called. Stop returns how many chats were answered 503.
func (s *server) startChats(t *testing.T) (stop func() (failed int)) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := 0
	chat := func(user int) {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/api/v1/chat/completions",
			strings.NewReader(`{"model":"llama-3.3-70b","messages":[{"role":"user","content":"Hello"}]}`))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("Authorization", fmt.Sprintf("Bearer sk-u%d", user))
		r.Header.Set("Content-Type", "application/json")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return // the test has ended
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusServiceUnavailable {
			mu.Lock()
			defer mu.Unlock()
			failed++
		}
	}
	wg.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for user := 0; ; user++ {
			select {
			case <-tick.C:
				wg.Go(func() { chat(user) })
			case <-ctx.Done():
				return
			}
		}
	})
	return func() int {
		cancel()
		wg.Wait()
		return failed
	}
}

// The operator starts the default plan and skips to the stage with 50 %. Opens begin to
// take too long, and the rollout is rolled back automatically by one stage. The console
// shows the alert, the causes of the failures and the reason of the rollback. The
// operator switches the feature off with a notice, which a user reads.
func TestConsole_FailingStageIsRolledBackAndSaysWhy(t *testing.T) {
	if testing.Short() {
		t.Skip("a stage is rolled back after two minutes of failures at the earliest")
	}
	t.Parallel()
	s := startServer(t, "AUTOMATION_ACQUIRE_TIMEOUT=2s", "AUTOMATION_ROLLOUT_INTERVAL=500ms")
	user, operator := openTab(t), openTab(t)
	if err := os.MkdirAll("screenshots", 0o755); err != nil {
		t.Fatal(err)
	}
	operator.signIn(s)
	operator.run(chromedp.Navigate(s.url+"/console/switch"), chromedp.SendKeys("#user", "alice"), chromedp.SendKeys("#why-user", "on call"), chromedp.Click(`//button[.="Add"]`))
	operator.until(".flash", "alice is an internal user now.")
	operator.run(chromedp.Navigate(s.url+"/console/rollout"), chromedp.Click(`//button[.="Start the plan"]`))
	operator.until(".flash", "The rollout has started.")
	operator.until("li[aria-current=step]", "internal")
	operator.run(chromedp.Click(`button[aria-label="Dry run: Pause"]`))
	operator.until(".flash", "Dry run, nothing was changed.")
	for _, stage := range []string{"10 %", "50 %"} {
		operator.run(chromedp.Click(`//button[.="Skip"]`))
		operator.until("li[aria-current=step]", stage)
	}

	user.run(chromedp.Navigate(s.url+"/"), chromedp.WaitReady("#faults option"), chromedp.SetValue("#faults", "open-slow"),
		chromedp.Evaluate(`document.getElementById("faults").dispatchEvent(new Event("change"))`, nil))
	user.until("#fault-note", "Now chat and see.")
	user.run(chromedp.WaitReady("#model option"), chromedp.Click("#ask button"))
	user.until(".turn .meta", "503")
	stop := s.startChats(t)

	operator.run(chromedp.Navigate(s.url + "/console/"))
	operator.until("#alerts", "AutomationErrorRateHigh")
	operator.until("#figures", "opening")
	operator.screenshots("overview-failing", operator.checkAccessibility)
	operator.run(chromedp.Navigate(s.url + "/console/rollout"))
	operator.until("#stages .flash", "requests failed in") // the page refreshes itself
	operator.until("#stages .flash", "rolled back automatically to this stage")
	operator.until("#stages", "paused")
	operator.until("li[aria-current=step]", "10 %")
	if failed := stop(); failed < 20 {
		t.Errorf("the rollout was rolled back after %d failures, want at least 20", failed)
	}
	operator.run(chromedp.Reload())
	operator.until("td", "step back")
	operator.screenshots("rollout-rolled-back", operator.checkAccessibility)

	operator.run(chromedp.Navigate(s.url+"/console/switch"), chromedp.WaitVisible("#notice"), chromedp.SendKeys("#notice", "Opens take too long; back at 9:00 UTC."),
		chromedp.SendKeys("#why-off", "step back at 50 %"), chromedp.Click("form .check input"), chromedp.Click("button.danger"))
	operator.until(".flash", "The feature is off.")
	user.run(chromedp.Reload(), chromedp.WaitReady("#model option"))
	user.until("#notice", "Opens take too long; back at 9:00 UTC.")
	operator.run(chromedp.Navigate(s.url + "/console/audit"))
	operator.until("td", "console:ann (step back at 50 %)")
	user.requestedOnly(s)
	operator.requestedOnly(s)
}
