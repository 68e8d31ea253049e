package proxyroutertest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestFault_MatchesCalls(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet, Skip: 1, Times: 2, Status: 503, Text: "away"})
	statuses := func(n int) (all []int) {
		for range n {
			resp, _, err := h.send(t.Context(), "GET", "/wallet", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, resp.StatusCode)
		}
		return all
	}
	h.call("GET", "/blockchain/models", "", nil, 200)
	if diff := cmp.Diff([]int{200, 503, 503, 200}, statuses(4)); diff != "" {
		t.Errorf("statuses with Skip 1 and Times 2 (-want +got):\n%s", diff)
	}
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet})
	if diff := cmp.Diff([]int{500, 500, 500}, statuses(3)); diff != "" {
		t.Errorf("statuses with a fault without Times (-want +got):\n%s", diff)
	}
	h.node.ClearFaults()
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet, Probability: 0.5})
	failed := 0
	for _, s := range statuses(200) {
		if s != 200 {
			failed++
		}
	}
	if failed < 60 || failed > 140 {
		t.Errorf("%d of 200 calls failed, want about half", failed)
	}
}

func TestFault_MatchesProviderAndModel(t *testing.T) {
	other := proxyroutertest.ModelID("other")
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpChat, Provider: proxyroutertest.ProviderAddress(1)})
	h.node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Model: other})
	h.call("POST", "/v1/chat/completions", hello, on(id), 200)
	h.call("POST", "/blockchain/models/"+other+"/session", openBody, nil, 500)
	h.open()
}

func TestFault_Modes(t *testing.T) {
	for name, test := range map[string]struct {
		fault  proxyroutertest.Fault
		status int // 0: the connection breaks
		body   string
		opens  int
	}{
		"an answer":              {proxyroutertest.Fault{}, 500, `{"error":"injected fault in open"}`, 0},
		"an answer as given":     {proxyroutertest.Fault{Status: 502, Body: "<html>"}, 502, "<html>", 0},
		"an answer without body": {proxyroutertest.Fault{After: true, Status: 204}, 204, "", 1},
		"paid, then a 500":       {proxyroutertest.Fault{After: true, Text: "timeout"}, 500, `{"error":"timeout"}`, 1},
		"paid, then late":        {proxyroutertest.Fault{After: true, Status: 200, Delay: time.Millisecond}, 200, "", 1},
		"no answer":              {proxyroutertest.Fault{Mode: proxyroutertest.ModeDrop}, 0, "", 0},
		"paid, then no answer":   {proxyroutertest.Fault{Mode: proxyroutertest.ModeDrop, After: true}, 0, "", 1},
		"half an answer":         {proxyroutertest.Fault{Mode: proxyroutertest.ModeCut}, 0, "", 1},
		"silence":                {proxyroutertest.Fault{Mode: proxyroutertest.ModeHang}, 0, "", 0},
		"paid, then silence":     {proxyroutertest.Fault{Mode: proxyroutertest.ModeHang, After: true}, 0, "", 1},
		"the caller leaves":      {proxyroutertest.Fault{Delay: time.Hour}, 0, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, proxyroutertest.Options{})
			test.fault.Op = proxyroutertest.OpOpen
			test.fault.Times = 1
			h.node.Inject(test.fault)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			if test.fault.Mode == proxyroutertest.ModeHang || test.fault.Delay == time.Hour {
				// The caller leaves only after the fault was applied.
				go func() {
					for ctx.Err() == nil && (len(h.node.Faults()) > 0 || h.node.Stats().Opens < test.opens) {
						runtime.Gosched()
					}
					leave()
				}()
			}
			resp, raw, err := h.send(ctx, "POST", "/blockchain/models/"+model+"/session", openBody, nil)
			switch {
			case test.status == 0:
				if err == nil {
					t.Errorf("answer %d %s, want a broken connection", resp.StatusCode, raw)
				}
			case err != nil || resp.StatusCode != test.status || (test.body != "" && string(raw) != test.body):
				t.Errorf("answer %+v with body %s, %v; want %d %s", resp, raw, err, test.status, test.body)
			}
			if n := h.node.Stats().Opens; n != test.opens {
				t.Errorf("%d sessions opened, want %d", n, test.opens)
			}
		})
	}
}

func TestFault_LeavesTheSessionFree(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	for _, fault := range []proxyroutertest.Fault{
		{}, {After: true}, {Mode: proxyroutertest.ModeDrop}, {Mode: proxyroutertest.ModeDrop, After: true}, {Mode: proxyroutertest.ModeCut},
		{Delay: time.Millisecond}, {After: true, Status: 200},
		proxyroutertest.ProviderModelError(503, "down"), proxyroutertest.OldProviderModelError("down"),
	} {
		for range 10 {
			fault.Op, fault.Times = proxyroutertest.OpChat, 1
			h.node.Inject(fault)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			_, _, _ = h.send(ctx, "POST", "/v1/chat/completions", hello, on(id))
			cancel()
			h.call("POST", "/v1/chat/completions", hello, on(id), 200)
		}
	}
	if s := h.node.Stats(); s.Overlaps != 0 || s.Chats != 180 {
		t.Errorf("stats = %+v, want 180 chats and no overlap", s)
	}
}

func TestControl_ServesOtherProcesses(t *testing.T) {
	h := start(t, proxyroutertest.Options{Control: true, Username: "u", Password: "p"})
	auth := http.Header{"Authorization": {"Basic dTpw"}}
	h.call("POST", "/_sim/faults", `{"op":"wallet","status":503,"text":"away"}`, nil, 204)
	h.call("GET", "/wallet", "", auth, 503)
	h.call("DELETE", "/_sim/faults", "", nil, 204)
	h.call("GET", "/wallet", "", auth, 200)
	h.call("POST", "/_sim/faults", `{"operation":"wallet"}`, nil, 400)

	h.call("POST", "/blockchain/models/"+model+"/session", openBody, auth, 200)
	var got proxyroutertest.Stats
	if err := json.Unmarshal([]byte(h.call("GET", "/_sim/stats", "", nil, 200)), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h.node.Stats(), got); diff != "" || got.Opens != 1 {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	h.call("POST", "/_sim/expire?id="+got.Sessions[0].ID, "", nil, 204)
	h.call("POST", "/_sim/expire?id=0x1", "", nil, 404)
	auth.Set("session_id", got.Sessions[0].ID)
	wantText(t, h.call("POST", "/v1/chat/completions", hello, auth, 500), "session expired")

	start(t, proxyroutertest.Options{}).call("GET", "/_sim/stats", "", nil, 404)
}

func TestNewServer_EndsWithTheTest(t *testing.T) {
	var node *proxyroutertest.Server
	t.Run("a test", func(t *testing.T) { node = proxyroutertest.NewServer(t, proxyroutertest.Options{}) })
	h := harness{t: t, node: node, http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if _, _, err := h.send(t.Context(), "GET", "/healthcheck", "", nil); err == nil {
		t.Error("the node answers after its test has ended")
	}
}
