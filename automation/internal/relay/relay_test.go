package relay_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/relay"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
)

const sse = "text/event-stream"

func TestCopy_PassesOnEventsAsTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c, n := relay.New(), newClient(), newNode(t.Context(), sse+"; charset=utf-8")
		go func() {
			n.send(delta)
			time.Sleep(time.Second)
			n.send(finish[:20])
			time.Sleep(time.Second)
			n.send(finish[20:])
			time.Sleep(time.Second)
			n.send(": ping\n\n" + done)
			n.end()
		}()
		result := r.Copy(t.Context(), c, n.Answer)
		if result.Failure != nil || !result.Begun || c.received() != delta+finish+": ping\n\n"+done {
			t.Fatalf("result %+v, the client got %q; want success and the whole stream", result, c.received())
		}
		if first, second, third := c.receivedAt(t, delta), c.receivedAt(t, finish), c.receivedAt(t, "ping"); first != 0 || second != 2*time.Second || third != 3*time.Second {
			t.Errorf("events arrived after %v, %v and %v; want 0s, 2s and 3s", first, second, third)
		}
		if len(c.writes) != 4 {
			t.Errorf("writes %+v; want one for each of the 4 events", c.writes)
		}
		n.wantRelease(t, true)
	})
}

func TestCopy_PassesOnDoneWhenTheSessionIsReleased(t *testing.T) {
	for name, tt := range map[string]struct {
		eofAfter, releaseTakes time.Duration // eofAfter < 0: never
		doneAt, releasedAt     time.Duration
		drained                bool
	}{
		"at once":              {0, 0, 0, 0, true},
		"after a slow release": {0, 100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond, true},
		"after 250ms if the release takes longer": {0, time.Second, 250 * time.Millisecond, time.Second, true},
		"after 250ms if the body ends late":       {8 * time.Second, 0, 250 * time.Millisecond, 8 * time.Second, true},
		"after 250ms if the body never ends":      {-1, 0, 250 * time.Millisecond, time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, c, n := relay.NewWithTimeouts(2*time.Minute, time.Minute), newClient(), newNode(t.Context(), sse)
				go func() {
					n.send(delta + finish + done)
					if tt.eofAfter >= 0 {
						time.Sleep(tt.eofAfter)
						n.end()
					}
				}()
				begun := time.Now()
				prepared := 0
				n.PrepareRelease = func() {
					if prepared++; strings.Contains(c.received(), "[DONE]") {
						t.Error("the client got [DONE] before PrepareRelease was called")
					}
				}
				release := n.Release
				n.Release = func(drained bool) {
					time.Sleep(tt.releaseTakes)
					release(drained)
				}
				if result := r.Copy(t.Context(), c, n.Answer); result.Failure != nil || c.received() != delta+finish+done {
					t.Fatalf("result %+v, the client got %q; want success and the whole stream", result, c.received())
				}
				if took := time.Since(begun); took != tt.doneAt || c.receivedAt(t, "[DONE]") != tt.doneAt || c.receivedAt(t, finish) != 0 {
					t.Errorf("finish arrived after %v, [DONE] after %v, Copy returned after %v; want 0s, %v, %v", c.receivedAt(t, finish), c.receivedAt(t, "[DONE]"), took, tt.doneAt, tt.doneAt)
				}
				n.wantRelease(t, tt.drained)
				if prepared != 1 {
					t.Errorf("PrepareRelease was called %d times, want once", prepared)
				}
				if took := time.Since(begun); took != tt.releasedAt {
					t.Errorf("released after %v, want %v", took, tt.releasedAt)
				}
				r.Close()
			})
		})
	}
}

func TestCopy_EndsAStreamAtItsOwnEndMarker(t *testing.T) {
	for name, stream := range map[string]string{
		"[DONE] without finish_reason":         delta + done,
		"finish_reason without [DONE]":         delta + finish,
		"[DONE] without its blank line":        delta + "data: [DONE]",
		"finish_reason without its blank line": delta + strings.TrimSpace(finish),
		"an event of the responses API":        "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
		"usage after finish_reason":            delta + finish + "data: {\"choices\":[],\"usage\":{}}\n\n",
		"carriage returns":                     strings.ReplaceAll(delta+done, "\n", "\r\n"),
		"an event larger than the buffer":      `data: {"choices":[{"delta":{"content":"` + strings.Repeat("x", 100<<10) + `"}}]}` + "\n\n" + done,
		"a stream larger than the buffer":      strings.Repeat(delta, 10_000) + done,
	} {
		t.Run(name, func(t *testing.T) {
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, stream, io.EOF)
			result := r.Copy(t.Context(), c, n.Answer)
			if result.Failure != nil || strings.TrimSpace(c.received()) != strings.TrimSpace(stream) {
				t.Errorf("result %+v, the client got %d of %d bytes; want success and all", result, len(c.received()), len(stream))
			}
			n.wantRelease(t, true)
			r.Close()
		})
	}
	t.Run("a finish_reason and then nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, c, n := relay.NewWithTimeouts(2*time.Minute, time.Minute), newClient(), newNode(t.Context(), sse)
			go n.send(delta + finish)
			begun := time.Now()
			if result := r.Copy(t.Context(), c, n.Answer); result.Failure != nil {
				t.Errorf("failure %+v, want none", result.Failure)
			}
			if took := time.Since(begun); took > time.Minute {
				t.Errorf("the stream ended after %v, want at most a minute", took)
			}
			n.wantRelease(t, false)
		})
	})
}

// failures are streams that end without a complete answer.
var failures = map[string]struct {
	stream string
	end    error
	body   string // of the Failure
	text   string // part of its error's text
}{
	"an end without [DONE]":                {end: io.EOF, text: "without [DONE]"},
	"bare JSON":                            {stream: `{"providerModelError":{"error":{"message":"x"}}}`, end: io.EOF, body: `{"providerModelError":{"error":{"message":"x"}}}`, text: "other than events"},
	"bare JSON on a line":                  {stream: `{"error":"session expired"}` + "\n", end: io.EOF, body: `{"error":"session expired"}` + "\n", text: "other than events"},
	"text":                                 {stream: "Bad Gateway\n", end: io.EOF, body: "Bad Gateway\n", text: "other than events"},
	"an event with an error":               {stream: `data: {"error":{"message":"x"}}` + "\n\n" + done, end: io.EOF, body: `{"error":{"message":"x"}}`, text: "error in place"},
	"half a line":                          {stream: `data: {"choices":[{"del`, end: io.EOF, text: "within an event"},
	"half a line and bare JSON":            {stream: "data: 1\n" + `{"error":"x"}`, end: io.EOF, body: `{"error":"x"}`, text: "other than events"},
	"a connection that breaks":             {end: io.ErrUnexpectedEOF, text: "broke off"},
	"a connection that breaks in an event": {stream: `data: {`, end: errors.New("reset by peer"), text: "reset by peer"},
	"an event that is too long":            {stream: "data: " + strings.Repeat("x", 9<<20), end: io.EOF, text: "longer than 8 MiB"},
}

func TestCopy_HoldsAnAnswerThatFailsBeforeItsFirstByte(t *testing.T) {
	for name, tt := range failures {
		t.Run(name, func(t *testing.T) {
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, tt.stream, tt.end)
			result := r.Copy(t.Context(), c, n.Answer)
			f := result.Failure
			if f == nil || f.Cause != outcome.Provider || f.Code != outcome.CodeProviderError || !result.Held || result.Begun || result.Abort {
				t.Fatalf("result %+v, failure %+v; want a held answer, %s, %s", result, f, outcome.Provider, outcome.CodeProviderError)
			}
			want := tt.text
			if tt.stream == "" && tt.end == io.EOF { //nolint:errorlint // a table's value
				want = "empty"
			}
			if !strings.Contains(f.Err.Error(), want) {
				t.Errorf("error %q, want it to contain %q", f.Err, want)
			}
			if tt.body != "" && string(f.Body) != tt.body {
				t.Errorf("the failure's body %q, want %q", f.Body, tt.body)
			}
			if c.status != 0 || c.received() != "" || len(c.header) != 0 {
				t.Errorf("the client got status %d, header %v, body %q; want nothing", c.status, c.header, c.received())
			}
			n.wantNoRelease(t)
			r.Close()
		})
	}
}

func TestCopy_EndsABrokenStreamWithOneErrorEvent(t *testing.T) {
	for name, tt := range failures {
		t.Run(name, func(t *testing.T) {
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, delta+tt.stream, tt.end)
			n.Describe = func(f *relay.Failure) []byte {
				f.Code = outcome.CodeModelError
				return fmt.Appendf(nil, "{\n \"error\": {\"message\": %q}}", f.Err)
			}
			result := r.Copy(t.Context(), c, n.Answer)
			f := result.Failure
			if f == nil || f.Cause != outcome.Provider || f.Code != outcome.CodeModelError || result.Held || !result.Begun || result.Abort {
				t.Fatalf("result %+v, failure %+v; want an answer that has begun, %s, %s", result, f, outcome.Provider, outcome.CodeModelError)
			}
			if !strings.Contains(f.Err.Error(), tt.text) {
				t.Errorf("error %q, want it to contain %q", f.Err, tt.text)
			}
			if tt.body != "" && string(f.Body) != tt.body {
				t.Errorf("the failure's body %q, want %q", f.Body, tt.body)
			}
			if want := delta + fmt.Sprintf("data: {\"error\":{\"message\":%q}}\n\n", f.Err); c.received() != want {
				t.Errorf("the client got %q, want %q", c.received(), want)
			}
			<-n.released
			r.Close()
		})
	}
}

func TestCopy_HidesTheCauseFromTheClientWithoutDescribe(t *testing.T) {
	r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, delta+`{"error":"password=secret"}`, io.EOF)
	r.Copy(t.Context(), c, n.Answer)
	want := delta + `data: {"error":{"message":"The answer broke off.","type":"upstream_error","code":"stream_interrupted"}}` + "\n\n"
	if c.received() != want {
		t.Errorf("the client got %q, want %q", c.received(), want)
	}
	<-n.released
	r.Close()
}

func TestCopy_PassesOnAWholeBodyOrAborts(t *testing.T) {
	small, large := `{"id":"x","object":"chat.completion","error":null}`, `{"data":["`+strings.Repeat("x", 1<<20)+`"]}`
	for name, tt := range map[string]struct {
		contentType string
		body        string
		length      int64 // -1: unknown
		end         error
		begun       bool
		text        string // part of the failure's error; empty if there is no failure
	}{
		"JSON":                                  {body: small, length: int64(len(small)), begun: true},
		"JSON of unknown length":                {body: small, length: -1, begun: true},
		"large JSON":                            {body: large, length: int64(len(large)), begun: true},
		"large JSON of unknown length":          {body: large, length: -1, begun: true},
		"audio":                                 {contentType: "audio/mpeg", body: "ID3...", length: -1, begun: true},
		"audio of known length":                 {contentType: "audio/mpeg", body: "ID3...", length: 6, begun: true},
		"compressed JSON":                       {contentType: "application/json; gzip", body: "\x1f\x8b", length: 2, begun: true},
		"nothing":                               {body: "", length: 0, text: "empty"},
		"nothing of unknown length":             {body: "", length: -1, text: "empty"},
		"audio that is empty":                   {contentType: "audio/mpeg", length: -1, text: "empty"},
		"JSON cut off":                          {body: small[:9], length: -1, text: "not valid JSON"},
		"JSON cut off by its length":            {body: small[:9], length: 9, text: "not valid JSON"},
		"JSON and more":                         {body: small + small, length: -1, text: "not valid JSON"},
		"JSON shorter than its length":          {body: small, length: 1000, text: "shorter"},
		"JSON that breaks off":                  {body: small, length: 1000, end: io.ErrUnexpectedEOF, text: "broke off"},
		"an error with the status of a success": {body: `{"error":{"message":"x"}}`, length: -1, text: "error in place"},
		"a provider's error":                    {body: `{"providerModelError":"x"}`, length: -1, text: "error in place"},
		"large JSON that breaks off":            {body: large[:1<<19], length: int64(len(large)), end: io.ErrUnexpectedEOF, begun: true, text: "broke off"},
		"large JSON shorter than its length":    {body: large, length: 2 << 20, begun: true, text: "shorter"},
		"large JSON of unknown length, cut off": {body: large[:1<<19], length: -1, end: io.ErrUnexpectedEOF, begun: true, text: "broke off"},
		"audio that breaks off":                 {contentType: "audio/mpeg", body: "ID3", length: -1, end: io.ErrUnexpectedEOF, begun: true, text: "broke off"},
		"large JSON that lacks its second half": {body: large[:1<<19], length: -1, begun: true, text: "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			contentType := tt.contentType
			if contentType == "" {
				contentType = "application/json"
			}
			contentType, encoding, _ := strings.Cut(contentType, "; ")
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), contentType, tt.body, tt.end)
			n.Response.ContentLength = tt.length
			if encoding != "" {
				n.Response.Header.Set("Content-Encoding", encoding)
			}
			result := r.Copy(t.Context(), c, n.Answer)
			if tt.text == "" {
				if result.Failure != nil || c.received() != tt.body {
					t.Fatalf("failure %+v, the client got %d of %d bytes; want no failure and all", result.Failure, len(c.received()), len(tt.body))
				}
				wantLength := ""
				if tt.length >= 0 || len(tt.body) < 1000 && contentType == "application/json" {
					wantLength = fmt.Sprint(len(tt.body))
				}
				if got := c.header.Get("Content-Length"); got != wantLength {
					t.Errorf("Content-Length %q, want %q", got, wantLength)
				}
				n.wantRelease(t, true)
				return
			}
			if f := result.Failure; f == nil || f.Cause != outcome.Provider || !strings.Contains(f.Err.Error(), tt.text) {
				t.Fatalf("failure %+v; want the cause %s and an error with %q", f, outcome.Provider, tt.text)
			}
			hasStatus := c.status != 0
			if result.Begun != tt.begun || result.Abort != tt.begun || result.Held == tt.begun || hasStatus != tt.begun {
				t.Errorf("result %+v, status %d; want begun and aborted: %t", result, c.status, tt.begun)
			}
			if tt.begun {
				<-n.released
			} else {
				n.wantNoRelease(t)
			}
			r.Close()
		})
	}
}

func TestCopy_DrainsTheNodeAfterTheClientHasLeft(t *testing.T) {
	for name, tt := range map[string]struct {
		sent    string // before the client leaves
		endsIn  time.Duration
		drained bool
	}{
		"before the first byte, and the body ends":       {"", 10 * time.Second, true},
		"after the first byte, and the body ends":        {delta, 10 * time.Second, true},
		"before the first byte, and the body never ends": {"", time.Hour, false},
		"after the first byte, and the body never ends":  {delta, time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, c, n := relay.NewWithTimeouts(2*time.Minute, time.Minute), newClient(), newNode(t.Context(), sse)
				ctx, leave := context.WithCancel(t.Context())
				go func() {
					n.send(tt.sent)
					time.Sleep(time.Second)
					leave()
					time.Sleep(time.Second / 2)
					for i := 0; i < int(tt.endsIn/time.Second) && n.ctx.Err() == nil; i++ {
						n.send(delta)
						time.Sleep(time.Second)
					}
					if n.ctx.Err() == nil {
						n.send(done)
						n.end()
					}
				}()
				begun := time.Now()
				result := r.Copy(ctx, c, n.Answer)
				if took := time.Since(begun); took != time.Second {
					t.Errorf("Copy returned after %v, want 1s", took)
				}
				if f := result.Failure; f == nil || f.Cause != outcome.ClientLeft || result.Held || result.Begun != (tt.sent != "") {
					t.Errorf("result %+v, failure %+v; want the cause %s, not held, begun %t", result, f, outcome.ClientLeft, tt.sent != "")
				}
				n.wantRelease(t, tt.drained)
				if took, want := time.Since(begun), time.Second+min(tt.endsIn+time.Second/2, time.Minute); took != want {
					t.Errorf("released after %v, want %v", took, want)
				}
				if c.received() != tt.sent {
					t.Errorf("the client got %q, want %q", c.received(), tt.sent)
				}
				r.Close()
				time.Sleep(time.Second)
			})
		})
	}
	t.Run("so that a write to it fails", func(t *testing.T) {
		r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, delta+delta+done, io.EOF)
		c.fail = errors.New("broken pipe")
		if f := r.Copy(t.Context(), c, n.Answer).Failure; f == nil || f.Cause != outcome.ClientLeft {
			t.Errorf("failure %+v, want the cause %s", f, outcome.ClientLeft)
		}
		n.wantRelease(t, true)
		r.Close()
	})
}

func TestCopy_DistinguishesTheHostsDeadlineFromABrokenAnswer(t *testing.T) {
	errStopping := errors.New("the server is stopping")
	for name, tt := range map[string]struct {
		context func(context.Context) (context.Context, context.CancelFunc)
		want    error
	}{
		"a deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, context.DeadlineExceeded},
		"a cause": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, time.Second, errStopping)
		}, errStopping},
	} {
		for _, sent := range []string{"", delta} {
			t.Run(fmt.Sprintf("%s after %d bytes", name, len(sent)), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, c, n := relay.New(), newClient(), newNode(t.Context(), sse)
					ctx, cancel := tt.context(t.Context())
					defer cancel()
					go func() {
						n.send(sent)
						time.Sleep(5 * time.Second)
						n.send(delta + done)
						n.end()
					}()
					result := r.Copy(ctx, c, n.Answer)
					if f := result.Failure; f == nil || f.Cause != outcome.Host || !errors.Is(f.Err, tt.want) {
						t.Fatalf("failure %+v; want the cause %s and the error %v", f, outcome.Host, tt.want)
					}
					if sent == "" && c.received() != "" {
						t.Errorf("the client got %q, want nothing", c.received())
					}
					if sent != "" && !strings.HasPrefix(c.received(), delta+`data: {"error":`) {
						t.Errorf("the client got %q, want the event and an error event", c.received())
					}
					n.wantRelease(t, true)
				})
			})
		}
	}
	for _, err := range []error{os.ErrDeadlineExceeded, http.ErrHandlerTimeout} {
		t.Run("a write fails with "+err.Error(), func(t *testing.T) {
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, delta+done, io.EOF)
			c.fail = err
			if f := r.Copy(t.Context(), c, n.Answer).Failure; f == nil || f.Cause != outcome.Host || f.Code != outcome.CodeStreamInterrupted {
				t.Errorf("failure %+v, want %s, %s", f, outcome.Host, outcome.CodeStreamInterrupted)
			}
			n.wantRelease(t, true)
			r.Close()
		})
	}
}

func TestCopy_ReportsThatTheSessionsLeaseWasLost(t *testing.T) {
	lost := errors.New("lease lost")
	for _, sent := range []string{"", delta} {
		t.Run(fmt.Sprintf("after %d bytes", len(sent)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lease, lose := context.WithCancelCause(t.Context())
				r, c, n := relay.New(), newClient(), newNode(lease, sse)
				go func() {
					n.send(sent)
					time.Sleep(time.Second)
					lose(lost)
				}()
				result := r.Copy(t.Context(), c, n.Answer)
				if f := result.Failure; f == nil || f.Cause != outcome.Database || !errors.Is(f.Err, lost) || result.Held != (sent == "") {
					t.Fatalf("result %+v, failure %+v; want %s, the error %v, held %t", result, f, outcome.Database, lost, sent == "")
				}
			})
		})
	}
}

func TestCopy_EndsWhenReadingOrWritingStalls(t *testing.T) {
	t.Run("because the node sends nothing", func(t *testing.T) {
		for _, sent := range []string{"", delta} {
			synctest.Test(t, func(t *testing.T) {
				r, c, n := relay.NewWithTimeouts(time.Minute, 2*time.Minute), newClient(), newNode(t.Context(), sse)
				go n.send(sent)
				begun := time.Now()
				result := r.Copy(t.Context(), c, n.Answer)
				if f := result.Failure; f == nil || f.Cause != outcome.Provider || f.Code != outcome.CodeProviderTimeout {
					t.Fatalf("failure %+v, want %s, %s", f, outcome.Provider, outcome.CodeProviderTimeout)
				}
				if took := time.Since(begun); took < time.Minute || took > 75*time.Second {
					t.Errorf("Copy returned after %v, want 60s to 75s", took)
				}
				if sent != "" && !strings.HasPrefix(c.received(), delta+`data: {"error":`) {
					t.Errorf("the client got %q, want the event and an error event", c.received())
				}
				n.wantRelease(t, false)
			})
		}
	})
	t.Run("but not while a node is slow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, c, n := relay.NewWithTimeouts(time.Minute, 2*time.Minute), newClient(), newNode(t.Context(), sse)
			go func() {
				for range 20 {
					time.Sleep(44 * time.Second)
					n.send(": ping\n\n")
				}
				n.send(done)
				n.end()
			}()
			if result := r.Copy(t.Context(), c, n.Answer); result.Failure != nil {
				t.Errorf("failure %+v, want none", result.Failure)
			}
			n.wantRelease(t, true)
		})
	})
	t.Run("because the client does not read", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, c, n := relay.NewWithTimeouts(time.Minute, 2*time.Minute), newClient(), newNodeWithBody(t.Context(), sse, delta+done, io.EOF)
			c.blocked = make(chan struct{})
			begun := time.Now()
			result := r.Copy(t.Context(), c, n.Answer)
			if f := result.Failure; f == nil || f.Cause != outcome.ClientLeft {
				t.Fatalf("failure %+v, want the cause %s", f, outcome.ClientLeft)
			}
			if took := time.Since(begun); took < time.Minute || took > 75*time.Second {
				t.Errorf("Copy returned after %v, want 60s to 75s", took)
			}
			n.wantRelease(t, true)
		})
	})
	t.Run("because the client does not read, until the host's deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, c, n := relay.New(), newClient(), newNodeWithBody(t.Context(), sse, delta+done, io.EOF)
			c.blocked = make(chan struct{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			if f := r.Copy(ctx, c, n.Answer).Failure; f == nil || f.Cause != outcome.Host {
				t.Errorf("failure %+v, want the cause %s", f, outcome.Host)
			}
			if took := time.Since(begun); took != 2*time.Second {
				t.Errorf("Copy returned after %v, want 2s", took)
			}
			n.wantRelease(t, true)
		})
	})
}

func TestCopy_RefusesStatusesOtherThan2xx(t *testing.T) {
	for _, status := range []int{http.StatusSwitchingProtocols, http.StatusEarlyHints, http.StatusFound, http.StatusBadGateway} {
		r, c, n := relay.New(), newClient(), newNode(t.Context(), sse)
		n.Response.StatusCode = status
		result := r.Copy(t.Context(), c, n.Answer)
		if f := result.Failure; f == nil || f.Cause != outcome.Provider || !result.Held || c.status != 0 {
			t.Errorf("%d: result %+v, failure %+v, the client got status %d; want a held answer, %s, no status", status, result, f, c.status, outcome.Provider)
		}
		if _, err := n.body.Write([]byte("x")); err == nil || n.ctx.Err() == nil {
			t.Errorf("%d: the node's body is still open", status)
		}
		n.wantNoRelease(t)
		r.Close()
	}
}

func TestCopy_PassesOnPanicsOfTheWriter(t *testing.T) {
	r, n := relay.New(), newNodeWithBody(t.Context(), sse, delta+done, io.EOF)
	func() {
		defer func() {
			if p := recover(); p != writerPanic {
				t.Errorf("recovered %v, want %q", p, writerPanic)
			}
		}()
		r.Copy(t.Context(), panickingClient{newClient()}, n.Answer)
	}()
	n.wantRelease(t, true)
	r.Close()
}

const writerPanic = "the client's writer panics"

type panickingClient struct{ *client }

func (panickingClient) Write([]byte) (int, error) { panic(writerPanic) }

func TestClose_EndsAndJoinsWhatIsBeingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, drained, served := relay.New(), newNode(t.Context(), sse), newNode(t.Context(), sse)
		go drained.send(delta + done)
		if result := r.Copy(t.Context(), newClient(), drained.Answer); result.Failure != nil {
			t.Fatalf("failure %+v, want none", result.Failure)
		}
		results := make(chan relay.Result, 1)
		go func() { results <- r.Copy(t.Context(), newClient(), served.Answer) }()
		synctest.Wait()
		if active := r.Active(); active != 2 {
			t.Errorf("%d answers are being read, want 2", active)
		}
		r.Close()
		drained.wantRelease(t, false)
		if f := (<-results).Failure; f == nil || f.Cause != outcome.Host || !errors.Is(f.Err, relay.ErrClosed) {
			t.Errorf("failure %+v; want the cause %s and ErrClosed", f, outcome.Host)
		}
		if active := r.Active(); active != 0 {
			t.Errorf("%d answers are still being read after Close", active)
		}
		late := newNode(t.Context(), sse)
		if result := r.Copy(t.Context(), newClient(), late.Answer); !result.Held || !errors.Is(result.Failure.Err, relay.ErrClosed) {
			t.Errorf("after Close: result %+v, failure %+v; want a held answer and ErrClosed", result, result.Failure)
		}
	})
}

func TestStopDraining_KeepsAnswersThatClientsWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, drained, served := relay.New(), newNode(t.Context(), sse), newNode(t.Context(), sse)
		go drained.send(delta + done)
		if result := r.Copy(t.Context(), newClient(), drained.Answer); result.Failure != nil {
			t.Fatalf("failure %+v, want none", result.Failure)
		}
		c, results := newClient(), make(chan relay.Result, 1)
		go func() { results <- r.Copy(t.Context(), c, served.Answer) }()
		synctest.Wait()
		r.StopDraining()
		drained.wantRelease(t, false)
		served.send(delta + done)
		if result := <-results; result.Failure != nil || c.received() != delta+done {
			t.Errorf("result %+v, the client got %q; want success and the whole stream", result, c.received())
		}
		served.wantRelease(t, false)
		r.Close()
	})
}

func TestReadError_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := relay.New()
		for name, tt := range map[string]struct {
			status  int
			body    string
			ends    bool
			want    int // bytes that are returned
			drained bool
			takes   time.Duration
		}{
			"a short text":                 {500, "x", true, 1, true, 0},
			"a long text":                  {500, strings.Repeat("x", 100<<10), true, 64 << 10, false, 0},
			"a text that does not end":     {500, "x", false, 1, false, 5 * time.Second},
			"a switch to another protocol": {101, "x", false, 0, false, 0},
		} {
			n := newNode(t.Context(), "text/plain")
			n.Response.StatusCode = tt.status
			go func() {
				n.send(tt.body)
				if tt.ends {
					n.end()
				}
			}()
			begun := time.Now()
			body, drained := r.ReadError(n.Response, n.Cancel)
			if took := time.Since(begun); len(body) != tt.want || drained != tt.drained || took != tt.takes {
				t.Errorf("%s: %d bytes, drained %t, after %v; want %d, %t, %v", name, len(body), drained, took, tt.want, tt.drained, tt.takes)
			}
			n.Cancel(nil)
		}
	})
}

func TestCopyHeader_PassesOnWhatConcernsTheClient(t *testing.T) {
	src := http.Header{
		"Content-Type": {"application/json"}, "Content-Language": {"en"}, "Content-Length": {"5"}, "Retry-After": {"Wed, 21 Oct 2026 07:28:00 GMT"},
		"Retry-After-Ms": {"20"}, "X-Ratelimit-Remaining-Tokens": {"7"}, "Openai-Processing-Ms": {"12"}, "X-Ratelimit-Limit-Requests": {"9"},
		"Connection": {"close"}, "Keep-Alive": {"x"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"x"}, "Trailer": {"x"}, "Te": {"x"},
		"Set-Cookie": {"x"}, "Www-Authenticate": {"Basic"}, "Server": {"node"}, "Proxy-Authenticate": {"x"},
	}
	dst := http.Header{"X-Request-Id": {"r"}}
	relay.CopyHeader(dst, src)
	want := http.Header{
		"Content-Type": {"application/json"}, "Content-Language": {"en"}, "Retry-After": {"Wed, 21 Oct 2026 07:28:00 GMT"}, "Retry-After-Ms": {"20"},
		"X-Ratelimit-Remaining-Tokens": {"7"}, "Openai-Processing-Ms": {"12"}, "X-Ratelimit-Limit-Requests": {"9"}, "X-Request-Id": {"r"},
	}
	if diff := cmp.Diff(want, dst); diff != "" {
		t.Errorf("copied headers (-want +got):\n%s", diff)
	}
}

func TestSend_ReturnsTheNodesAnswerOrError(t *testing.T) {
	r, n := relay.New(), newNode(t.Context(), sse)
	defer r.Close()
	resp, err := r.Send(t.Context(), relay.Attempt{Cancel: n.Cancel, Release: n.Release, Send: func() (*http.Response, error) { return n.Response, nil }}) //nolint:bodyclose // there is none
	if err != nil || resp != n.Response {
		t.Errorf("response %v, error %v; want the node's response", resp, err)
	}
	failure := errors.New("no route to the node")
	if _, err := r.Send(t.Context(), relay.Attempt{Cancel: n.Cancel, Release: n.Release, Send: func() (*http.Response, error) { return nil, failure }}); !errors.Is(err, failure) { //nolint:bodyclose // there is none
		t.Errorf("error %v, want %v", err, failure)
	}
	n.wantNoRelease(t)
}

// A node that closes the connection is done with the request. After a time-out,
// or a cancellation by this process, it may still be working on it.
func TestCopy_ReleasesASessionOnlyWhenTheNodeIsDone(t *testing.T) {
	for name, tt := range map[string]struct {
		contentType, sent string
		end               error
		drained           bool
	}{
		"a stream that ends":            {sse, delta + finish + done, nil, true},
		"a stream that is cut":          {sse, delta, io.ErrUnexpectedEOF, true},
		"a stream that is cut at once":  {sse, "", io.ErrUnexpectedEOF, true},
		"a stream that is reset":        {sse, delta, syscall.ECONNRESET, true},
		"bare JSON that is cut":         {sse, delta + `{"error":`, io.ErrUnexpectedEOF, true},
		"a stream that times out":       {sse, delta, os.ErrDeadlineExceeded, false},
		"a stream that is cancelled":    {sse, delta, context.Canceled, false},
		"a JSON text that is cut":       {"application/json", `{"choices":`, io.ErrUnexpectedEOF, true},
		"a JSON text that is cancelled": {"application/json", `{"choices":`, context.Canceled, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, n := relay.NewWithTimeouts(2*time.Minute, time.Minute), newNodeWithBody(t.Context(), tt.contentType, tt.sent, tt.end)
				prepared := false
				n.PrepareRelease = func() { prepared = true }
				defer func() {
					if want := tt.drained && len(n.releases) > 0; prepared != want {
						t.Errorf("PrepareRelease was called: %t, want %t", prepared, want)
					}
				}()
				if result := r.Copy(t.Context(), newClient(), n.Answer); result.Held {
					if result.Drained != tt.drained {
						t.Errorf("held with drained %t, want %t", result.Drained, tt.drained)
					}
				} else {
					n.wantRelease(t, tt.drained)
				}
				r.Close()
				n.Cancel(nil)
			})
		})
	}
}

func TestSend_DrainsAnAnswerThatComesAfterTheClientHasLeft(t *testing.T) {
	failure := errors.New("no route to the node")
	for name, tt := range map[string]struct {
		answers time.Duration // when the header comes
		fails   error
		status  int
		ends    time.Duration // when the body ends
		drained bool
		took    time.Duration
	}{
		"an answer that ends":          {5 * time.Second, nil, 200, 10 * time.Second, true, 10 * time.Second},
		"an error that ends":           {5 * time.Second, nil, 500, 10 * time.Second, true, 10 * time.Second},
		"an answer that never ends":    {5 * time.Second, nil, 200, time.Hour, false, 61 * time.Second},
		"an answer that never comes":   {time.Hour, nil, 200, time.Hour, false, 61 * time.Second},
		"a request that fails":         {5 * time.Second, failure, 0, 0, false, 5 * time.Second},
		"a connection that is closed":  {5 * time.Second, fmt.Errorf("post: %w", io.EOF), 0, 0, true, 5 * time.Second},
		"a connection that is reset":   {5 * time.Second, fmt.Errorf("read: %w", syscall.ECONNRESET), 0, 0, true, 5 * time.Second},
		"a switch to another protocol": {5 * time.Second, nil, 101, time.Hour, false, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, n := relay.NewWithTimeouts(2*time.Minute, time.Minute), newNode(t.Context(), sse)
				n.Response.StatusCode = tt.status
				ctx, leave := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, leave)
				if tt.ends < time.Hour {
					time.AfterFunc(tt.ends, n.end)
				}
				begun := time.Now()
				_, err := r.Send(ctx, relay.Attempt{Cancel: n.Cancel, Release: n.Release, Send: func() (*http.Response, error) { //nolint:bodyclose // there is none
					select {
					case <-time.After(tt.answers):
						return n.Response, tt.fails
					case <-n.ctx.Done():
						return nil, n.ctx.Err()
					}
				}})
				if !errors.Is(err, relay.ErrAbandoned) || !errors.Is(err, context.Canceled) || time.Since(begun) != time.Second {
					t.Errorf("error %v after %v; want ErrAbandoned and context.Canceled after 1s", err, time.Since(begun))
				}
				n.wantRelease(t, tt.drained)
				if took := time.Since(begun); took != tt.took {
					t.Errorf("released after %v, want %v", took, tt.took)
				}
				r.Close()
				n.Cancel(nil)
			})
		})
	}
}

func TestClose_EndsAbandonedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, n := relay.New(), newNode(t.Context(), sse)
		ctx, leave := context.WithCancel(t.Context())
		leave()
		attempt := relay.Attempt{Cancel: n.Cancel, Release: n.Release, Send: func() (*http.Response, error) { <-n.ctx.Done(); return nil, n.ctx.Err() }}
		if _, err := r.Send(ctx, attempt); !errors.Is(err, relay.ErrAbandoned) { //nolint:bodyclose // there is none
			t.Errorf("error %v, want ErrAbandoned", err)
		}
		r.Close()
		n.wantRelease(t, false)
		if _, err := r.Send(t.Context(), attempt); !errors.Is(err, relay.ErrClosed) { //nolint:bodyclose // there is none
			t.Errorf("after Close: error %v, want ErrClosed", err)
		}
	})
}
