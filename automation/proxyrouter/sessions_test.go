package proxyrouter_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

const openSession = `{"session":{"Id":"0xabc","OpenedAt":1750000000,"EndsAt":1750003599,"ClosedAt":0}}`

// closing returns a client of a node that has an open session and answers its
// close with status and body.
func closing(t *testing.T, status int, body string) *proxyrouter.Client {
	t.Helper()
	return serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = fmt.Fprint(w, pad(openSession))
			return
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	})
}

func TestCloseSession_AcceptsEveryFormOfSuccess(t *testing.T) {
	for name, answer := range map[string]struct {
		status int
		body   string
	}{
		"a transaction": {200, `{"tx":"0xabc"}`},
		"no content":    {204, ""},
		"no JSON":       {200, "closed"},
		"nothing":       {200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if err := closing(t, answer.status, answer.body).CloseSession(t.Context(), sessionID); err != nil {
				t.Errorf("CloseSession: %v", err)
			}
		})
	}
	t.Run("an answer cut after its status", func(t *testing.T) {
		node, c := start(t, proxyroutertest.Options{})
		id := open(t, c)
		node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpClose, Mode: proxyroutertest.ModeCut})
		if err := c.CloseSession(t.Context(), id); err != nil {
			t.Errorf("CloseSession: %v", err)
		}
	})
}

func TestCloseSession_SendsNothingUnlessTheSessionIsOpen(t *testing.T) {
	node, c := start(t, proxyroutertest.Options{})
	id := open(t, c)
	for range 3 {
		if err := c.CloseSession(t.Context(), strings.ToUpper(id[2:])); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if err := c.CloseSession(t.Context(), proxyroutertest.ModelID("no such")); err != nil {
		t.Errorf("an unknown session: %v", err)
	}
	if s := node.Stats(); s.Closes != 1 || s.ClosesOfClosed != 0 {
		t.Errorf("stats = %+v, want one close and none of a closed session", s)
	}
	other := open(t, c)
	node.Inject(proxyroutertest.Fault{Name: "get-rpc-error", Times: 1})
	if err := c.CloseSession(t.Context(), other); err == nil || node.Stats().Closes != 1 {
		t.Errorf("closing a session that cannot be read: %v and %d closes, want an error and still one", err, node.Stats().Closes)
	}
}

func TestCloseSession_BelievesTheChainAfterAFailure(t *testing.T) {
	for _, text := range []string{"EVM error: SessionAlreadyClosed() []", "execution reverted", "nonce too low", "session not found"} {
		for _, closed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, closed: %t", text, closed), func(t *testing.T) {
				node, c := start(t, proxyroutertest.Options{})
				id := open(t, c)
				node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpClose, After: closed, Text: text})
				if err := c.CloseSession(t.Context(), id); (err == nil) != closed {
					t.Errorf("CloseSession = %v, want success: %t", err, closed)
				}
			})
		}
	}
}

func TestCloseSession_MapsErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		text   string
		want   []string
	}{
		"a collision":                   {500, "nonce too low", []string{"collision"}},
		"no credentials":                {401, "session not found", []string{"unauthorized"}},
		"no right":                      {403, "method not allowed", []string{"unauthorized"}},
		"malformed":                     {400, "invalid session id", nil},
		"a wrong route":                 {404, "404 page not found", nil},
		"a failure of the RPC endpoint": {500, "session not found", nil},
		"anything else":                 {500, "no bids available", nil},
	} {
		t.Run(name, func(t *testing.T) {
			wantErrors(t, closing(t, test.status, test.text).CloseSession(t.Context(), sessionID), test.want...)
		})
	}
	if err := closing(t, 200, "").CloseSession(t.Context(), "a/b"); err == nil {
		t.Error("an id with a slash: no error")
	}
}

func TestGetSession_Decodes(t *testing.T) {
	opened, ends, closed := time.Unix(1750000000, 0).UTC(), time.Unix(1750003599, 0).UTC(), time.Unix(1750003700, 0).UTC()
	for name, test := range map[string]struct {
		body string
		want session.ChainSession
	}{
		"integers beyond 2^53": {
			`{"session":{"Id":"0xabc","User":"0x1","Provider":"0x2","ModelAgentId":"0x3","BidID":"0x4","Stake":123456789012345678901234567890,
			"PricePerSecond":10000000000000000000000,"CloseoutReceipt":"","CloseoutType":0,"ProviderWithdrawnAmount":0,"OpenedAt":1750000000,"EndsAt":1750003599,"ClosedAt":0}}`,
			session.ChainSession{ID: sessionID, ModelID: pad("0x3"), Provider: pad("0x2"), OpenedAt: opened, EndsAt: ends},
		},
		"quoted times, closed, another case": {
			`{"session":{"Id":"0xABC","OpenedAt":"1750000000","EndsAt":"1750003599","ClosedAt":"1750003700"}}`,
			session.ChainSession{ID: sessionID, OpenedAt: opened, EndsAt: ends, ClosedAt: closed},
		},
		"null while open": {
			`{"session":{"Id":"0xabc","OpenedAt":1750000000,"EndsAt":1750003599,"ClosedAt":null}}`,
			session.ChainSession{ID: sessionID, OpenedAt: opened, EndsAt: ends},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := answering(t, 200, test.body).GetSession(t.Context(), sessionID)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("session (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGetSession_RejectsMalformedResponses(t *testing.T) {
	for name, body := range map[string]string{
		"nothing":             ``,
		"no JSON":             `<html>`,
		"no session":          `{}`,
		"null":                `{"session":null}`,
		"a session of zeros":  `{"session":{"Id":"0x00","OpenedAt":0,"EndsAt":0,"ClosedAt":0}}`,
		"another session":     `{"session":{"Id":"0xdef","OpenedAt":1,"EndsAt":2,"ClosedAt":0}}`,
		"no id":               `{"session":{"OpenedAt":1,"EndsAt":2,"ClosedAt":0}}`,
		"no end":              `{"session":{"Id":"0xabc","OpenedAt":1,"ClosedAt":0}}`,
		"a negative time":     `{"session":{"Id":"0xabc","OpenedAt":1,"EndsAt":-2}}`,
		"a fraction":          `{"session":{"Id":"0xabc","OpenedAt":1,"EndsAt":2.5}}`,
		"after the year 9999": `{"session":{"Id":"0xabc","OpenedAt":1,"EndsAt":253402300800}}`,
		"a time that is true": `{"session":{"Id":"0xabc","OpenedAt":1,"EndsAt":true}}`,
		"an id that is 7":     `{"session":{"Id":7,"OpenedAt":1,"EndsAt":2}}`,
	} {
		t.Run(name, func(t *testing.T) {
			s, err := answering(t, 200, body).GetSession(t.Context(), sessionID)
			wantErrors(t, err)
			if s != (session.ChainSession{}) {
				t.Errorf("the session next to the error is %+v, want the zero value", s)
			}
		})
	}
}

func TestReads_AreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // by a real clock the read could time out on a busy machine
		n, c, _ := newMemoryNode(t, proxyroutertest.Options{})
		n.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpGet, Status: 200, Body: `{"session":"` + strings.Repeat("x", 9<<20) + `"}`})
		_, err := c.GetSession(t.Context(), sessionID)
		wantErrors(t, err)
		if !strings.Contains(err.Error(), "larger than") {
			t.Errorf("error = %q, want one about the response's size", err)
		}
	})
}

func TestGetSession_ReportsAMissingSession(t *testing.T) {
	_, c := start(t, proxyroutertest.Options{})
	_, err := c.GetSession(t.Context(), proxyroutertest.ModelID("no such"))
	wantErrors(t, err, "not found")
	_, err = answering(t, 500, `{"error":"connection refused"}`).GetSession(t.Context(), sessionID)
	wantErrors(t, err)
	_, err = answering(t, 401, `{"error":"session not found"}`).GetSession(t.Context(), sessionID)
	wantErrors(t, err, "unauthorized")
	_, err = c.GetSession(t.Context(), "")
	wantErrors(t, err)
}

// startWithSessions returns a simulated node with n sessions that were opened a
// minute apart, a client of it, and when the last one was opened.
func startWithSessions(t *testing.T, n int) (*proxyroutertest.Server, *proxyrouter.Client, time.Time) {
	t.Helper()
	clock := time.Unix(1750000000, 0).UTC()
	node, c := start(t, proxyroutertest.Options{Now: func() time.Time { return clock }})
	for range n {
		clock = clock.Add(time.Minute)
		open(t, c)
	}
	return node, c, clock
}

func TestWalletSessions_ListsTheNewestFirst(t *testing.T) {
	node, c, last := startWithSessions(t, 300)
	for name, test := range map[string]struct {
		since time.Time
		want  int
	}{
		"all":                                 {time.Time{}, 300},
		"the last":                            {last, 1},
		"a fraction of a second is truncated": {last.Add(999 * time.Millisecond), 1},
		"none":                                {last.Add(time.Second), 0},
		"all of the first page":               {last.Add(-19 * time.Minute), 20},
		"one of the second page":              {last.Add(-20 * time.Minute), 21},
		"all of the second page":              {last.Add(-274 * time.Minute), 275},
		"one of the third page":               {last.Add(-275 * time.Minute), 276},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := c.WalletSessions(t.Context(), test.since)
			if err != nil || len(got) != test.want {
				t.Fatalf("%d sessions, %v; want %d", len(got), err, test.want)
			}
			all := node.Stats().Sessions
			for i, s := range got {
				if s.ID != all[len(all)-1-i].ID {
					t.Fatalf("session %d is %s, want %s", i, s.ID, all[len(all)-1-i].ID)
				}
			}
		})
	}
}

// sessionJSON returns a session as the node lists it.
func sessionJSON(id, opened int) string {
	return fmt.Sprintf(`{"Id":"0x%064d","OpenedAt":%d,"EndsAt":%d,"ClosedAt":0}`, id, opened, opened+3600)
}

// listing returns a client of a node whose pages of sessions are made by page, and
// the number of pages that were read.
func listing(t *testing.T, page func(offset, limit int) []string) (*proxyrouter.Client, *atomic.Int64) {
	t.Helper()
	var pages atomic.Int64
	return serving(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wallet" {
			_, _ = fmt.Fprint(w, `{"address":"0xWallet"}`)
			return
		}
		pages.Add(1)
		q := r.URL.Query()
		offset, _ := strconv.Atoi(q.Get("offset"))
		limit, _ := strconv.Atoi(q.Get("limit"))
		if q.Get("user") != "0xWallet" || q.Get("order") != "desc" || limit < 1 || limit > 255 {
			t.Errorf("unexpected query %v", q)
		}
		_, _ = fmt.Fprintf(w, `{"sessions":[%s]}`, strings.Join(page(offset, limit), ","))
	}), &pages
}

func TestWalletSessions_ReadsOnlyTheNeededPages(t *testing.T) {
	c, pages := listing(t, func(offset, limit int) (page []string) {
		for i := range limit {
			page = append(page, sessionJSON(offset+i, 1_000_000-offset-i))
		}
		return page
	})
	got, err := c.WalletSessions(t.Context(), time.Unix(1_000_000-5, 0))
	if err != nil || len(got) != 6 || pages.Load() != 1 {
		t.Errorf("%d sessions from %d pages, %v; want 6 from one page", len(got), pages.Load(), err)
	}
}

func TestWalletSessions_IsCompleteIfTheNodeDoesNotSort(t *testing.T) {
	const n = 300
	c, _ := listing(t, func(offset, limit int) (page []string) {
		for i := offset; i < min(offset+limit, n); i++ {
			page = append(page, sessionJSON(i, 1000+i)) // the oldest first
		}
		return page
	})
	got, err := c.WalletSessions(t.Context(), time.Unix(1000+n-2, 0))
	if err != nil || len(got) != 2 || got[0].ID != pad("0x299") || got[1].ID != pad("0x298") {
		t.Errorf("sessions = %v, %v; want 0x299 and 0x298", got, err)
	}
}

func TestWalletSessions_ListsASessionOnceWhenPagesShift(t *testing.T) {
	calls := 0
	c, _ := listing(t, func(offset, limit int) (page []string) {
		n := 100 + 3*calls // three sessions are opened between two pages
		calls++
		for i := offset; i < min(offset+limit, n); i++ {
			page = append(page, sessionJSON(n-i, 1000+n-i))
		}
		return page
	})
	got, err := c.WalletSessions(t.Context(), time.Time{})
	if err != nil || len(got) != 100 {
		t.Errorf("%d sessions, %v; want 100", len(got), err)
	}
}

func TestWalletSessions_EndsIfTheNodeRepeatsAPage(t *testing.T) {
	c, pages := listing(t, func(_, limit int) (page []string) {
		for i := range limit {
			page = append(page, sessionJSON(i, 1000-i))
		}
		return page
	})
	if _, err := c.WalletSessions(t.Context(), time.Time{}); err == nil || pages.Load() != 3 {
		t.Errorf("%d pages were read, %v; want an error after 3", pages.Load(), err)
	}
}

func TestWalletSessions_FailsRatherThanOmittingASession(t *testing.T) {
	for name, body := range map[string]string{
		"no list":             `{"address":"0x1"}`,
		"no JSON":             `{"address":"0x1","sessions":[`,
		"a malformed session": `{"address":"0x1","sessions":[{"Id":"0x1","OpenedAt":1,"EndsAt":2},{"Id":"0x2"}]}`,
		"no wallet":           `{"sessions":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := answering(t, 200, body).WalletSessions(t.Context(), time.Time{}); err == nil {
				t.Errorf("sessions = %v, want an error", got)
			}
		})
	}
	t.Run("null is an empty list", func(t *testing.T) {
		got, err := answering(t, 200, `{"address":"0x1","sessions":null}`).WalletSessions(t.Context(), time.Time{})
		if err != nil || len(got) != 0 {
			t.Errorf("sessions = %v, %v; want none", got, err)
		}
	})
	for _, op := range []proxyroutertest.Op{proxyroutertest.OpWallet, proxyroutertest.OpSessions} {
		node, c := start(t, proxyroutertest.Options{})
		node.Inject(proxyroutertest.Fault{Op: op})
		if _, err := c.WalletSessions(t.Context(), time.Time{}); err == nil {
			t.Errorf("%s fails: no error", op)
		}
	}
}

func TestWalletSessions_CachesTheAddressForAMinute(t *testing.T) {
	clock := time.Unix(1750000000, 0)
	node, c := start(t, proxyroutertest.Options{}, func(o *proxyrouter.Options) { o.Now = func() time.Time { return clock } })
	open(t, c)
	list := func() error {
		_, err := c.WalletSessions(t.Context(), time.Time{})
		return err
	}
	if err := list(); err != nil {
		t.Fatal(err)
	}
	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpWallet})
	clock = clock.Add(59 * time.Second)
	if err := list(); err != nil {
		t.Errorf("within the minute: %v", err)
	}
	clock = clock.Add(time.Second)
	if err := list(); err == nil {
		t.Error("after the minute: no error, so the old address was used")
	}
}

func TestWalletSessions_NoticesAnotherWallet(t *testing.T) {
	address := "0x1"
	c := serving(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/wallet":
			_, _ = fmt.Fprintf(w, `{"address":%q}`, address)
		case r.URL.Query().Get("user") == "0x2":
			_, _ = fmt.Fprintf(w, `{"sessions":[%s]}`, sessionJSON(1, 1000))
		default:
			_, _ = fmt.Fprint(w, `{"sessions":[]}`)
		}
	})
	for range 2 { // the second call uses the cached address
		if got, err := c.WalletSessions(t.Context(), time.Time{}); err != nil || len(got) != 0 {
			t.Errorf("sessions of the first wallet = %v, %v; want none", got, err)
		}
	}
	address = "0x2" // the node was restarted with another wallet
	if got, err := c.WalletSessions(t.Context(), time.Time{}); err != nil || len(got) != 1 {
		t.Errorf("sessions of the second wallet = %v, %v; want one", got, err)
	}
}
