package proxyroutertest_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

func TestChat_EchoesTheLastUserMessage(t *testing.T) {
	var seen string
	h := start(t, proxyroutertest.Options{OnChat: func(r *http.Request, body []byte) { seen = r.URL.Path + string(body) }})
	header := on(h.open())
	header.Set("X-Request-Id", "r-1")
	resp, raw, err := h.send(t.Context(), "POST", "/v1/chat/completions", hello, header)
	if err != nil || resp.Header.Get("X-Request-Id") != "r-1" {
		t.Errorf("the answer is %+v, %v; want the request's X-Request-Id in its header", resp, err)
	}
	wantText(t, string(raw), `"content":"You said: hello there"`, `"object":"chat.completion"`, `"finish_reason":"stop"`, `"total_tokens":6`)
	if seen != "/v1/chat/completions"+hello {
		t.Errorf("OnChat received %s, want the request's path and body", seen)
	}
	parts := `{"messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url"},{"type":"text","text":"here"}]},{"role":"assistant","content":null}]}`
	wantText(t, h.call("POST", "/v1/chat/completions", parts, header, 200), "You said: look here")
	for _, body := range []string{``, `{}`, `{"messages":7}`} {
		h.call("POST", "/v1/chat/completions", body, header, 400)
	}
	wantText(t, h.call("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":7}]}`, header, 200), "You said: ")
}

func TestStream_ComesInChunks(t *testing.T) {
	h := start(t, proxyroutertest.Options{ChunkDelay: time.Millisecond})
	id := h.open()
	got := h.call("POST", "/v1/chat/completions",
		`{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hello there"}]}`, on(id), 200)
	var text strings.Builder
	var finish, usage int
	events := strings.Split(strings.TrimSuffix(got, "\n\n"), "\n\n")
	for i, event := range events[:len(events)-1] {
		var chunk struct {
			Object  string
			Model   string
			Choices []struct {
				Delta        struct{ Role, Content string }
				FinishReason *string `json:"finish_reason"`
			}
			Usage *struct {
				TotalTokens int `json:"total_tokens"`
			}
		}
		if err := json.Unmarshal([]byte(strings.TrimPrefix(event, "data: ")), &chunk); err != nil || chunk.Object != "chat.completion.chunk" || chunk.Model != "m" {
			t.Fatalf("the event %s is not a chunk of the model m: %v", event, err)
		}
		if chunk.Usage != nil {
			usage = chunk.Usage.TotalTokens
			continue
		}
		if (i == 0) != (chunk.Choices[0].Delta.Role == "assistant") {
			t.Errorf("only the first chunk should have the role; chunk %d is %s", i, event)
		}
		text.WriteString(chunk.Choices[0].Delta.Content)
		if chunk.Choices[0].FinishReason != nil {
			finish++
		}
	}
	if text.String() != "You said: hello there" || finish != 1 || usage != 6 || events[len(events)-1] != "data: [DONE]" {
		t.Errorf("text %q, %d finish reasons, %d tokens; want the echo, one, 6, and [DONE] at the end of\n%s", text.String(), finish, usage, got)
	}
	if got := h.call("POST", "/v1/chat/completions", `{"stream":true,"messages":[{"role":"user"}]}`, on(id), 200); strings.Contains(got, "usage") {
		t.Errorf("the stream has a usage that was not requested: %s", got)
	}
}

func TestEmbeddings_AgreeInBothFormats(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	header := on(h.open())
	vectors := func(body string) (all [][]float32) {
		t.Helper()
		var got struct {
			Data []struct {
				Index     int
				Embedding json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(h.call("POST", "/v1/embeddings", body, header, 200)), &got); err != nil {
			t.Fatal(err)
		}
		for i, d := range got.Data {
			var v []float32
			var text string
			if json.Unmarshal(d.Embedding, &text) == nil {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				v = make([]float32, len(raw)/4)
				if _, err := binary.Decode(raw, binary.LittleEndian, v); err != nil {
					t.Fatal(err)
				}
			} else if err := json.Unmarshal(d.Embedding, &v); err != nil {
				t.Fatal(err)
			}
			if d.Index != i {
				t.Errorf("embedding %d has index %d", i, d.Index)
			}
			all = append(all, v)
		}
		return all
	}
	floats := vectors(`{"input":["a","b"]}`)
	if diff := cmp.Diff(floats, vectors(`{"input":["a","b"],"encoding_format":"base64"}`)); diff != "" {
		t.Errorf("the vectors of the two formats differ (-float +base64):\n%s", diff)
	}
	if diff := cmp.Diff(floats[:1], vectors(`{"input":"a"}`)); diff != "" {
		t.Errorf("the vector of \"a\" differs in and outside of a list (-list +alone):\n%s", diff)
	}
	if cmp.Equal(floats[0], floats[1]) || len(floats[0]) != 16 {
		t.Errorf("vectors = %v, want two different ones with 16 components", floats)
	}
	if n := len(vectors(`{"input":[1,2,3]}`)); n != 1 {
		t.Errorf("%d vectors for one list of tokens, want one", n)
	}
	if v := vectors(`{"input":[[1],[2]],"dimensions":3}`); len(v) != 2 || len(v[0]) != 3 {
		t.Errorf("vectors = %v, want two with 3 components", v)
	}
	h.call("POST", "/v1/embeddings", `{}`, header, 400)
	h.call("POST", "/v1/embeddings", `{"input":"a","dimensions":-1}`, header, 400)
}

func TestAudio_TranscribesAndSpeaks(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	form := func(field string) (string, http.Header) {
		var body bytes.Buffer
		w := multipart.NewWriter(&body)
		f, err := w.CreateFormFile(field, "talk.mp3")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(f, "12345")
		_ = w.Close()
		header := on(id)
		header.Set("Content-Type", w.FormDataContentType())
		return body.String(), header
	}
	body, header := form("file")
	if got := h.call("POST", "/v1/audio/transcriptions", body, header, 200); got != `{"text":"Transcript of talk.mp3, 5 bytes."}` {
		t.Errorf("the transcription is %s, want the file's name and size", got)
	}
	body, header = form("other")
	h.call("POST", "/v1/audio/transcriptions", body, header, 400)
	h.call("POST", "/v1/audio/transcriptions", `{}`, on(id), 400)

	if got := h.call("POST", "/v1/audio/speech", `{"input":"hi"}`, on(id), 200); !strings.HasPrefix(got, "RIFF") || len(got) != 44+160 {
		t.Errorf("the speech has %d bytes, want a WAV header of 44 and 160 samples", len(got))
	}
	h.call("POST", "/v1/audio/speech", `{}`, on(id), 400)
}

func TestChat_NeedsASession(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	h := start(t, proxyroutertest.Options{Now: clock.now})
	id, closed, expired := h.open(), h.open(), h.open()
	chat := func(header http.Header, status int) string {
		t.Helper()
		return h.call("POST", "/v1/chat/completions", hello, header, status)
	}
	wantText(t, chat(nil, 400), "session_id")
	wantText(t, chat(on("0x1"), 400), "session_id")
	wantText(t, chat(on(model), 500), "session not found")
	h.call("POST", "/blockchain/sessions/"+closed+"/close", "", nil, 200)
	chat(on(closed), 200) // closed before its end: nobody checks the chain
	const ended = "provider request failed: provider error: session expired"
	if !h.node.Expire(expired) || h.node.Expire("0x1") {
		t.Error("Expire does not report which of the two sessions exists")
	}
	wantText(t, chat(on(expired), 500), ended)
	clock.Time = clock.Add(3598 * time.Second)
	chat(on(id), 200)
	clock.Time = clock.Add(time.Second)
	wantText(t, chat(on(id), 500), ended)
	wantText(t, chat(on(closed), 500), ended)
	if s := h.node.Stats(); s.Unknown != 1 || s.Chats != 2 || s.ChatsOnClosed != 1 || s.Overlaps != 0 {
		t.Errorf("stats = %+v, want 2 chats, one of them on a closed session, and one on an unknown one", s)
	}
}

func TestIDs_AreParsedLikeTheNodes(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	for id[2] != '0' { // the test needs an id whose first digit can be left out
		id = h.open()
	}
	digits := strings.TrimPrefix(id, "0x")
	for _, form := range []string{id, digits, strings.ToUpper(digits), "0X" + strings.ToUpper(digits), "0x" + digits[1:], digits[1:]} {
		h.call("GET", "/blockchain/sessions/"+form, "", nil, 200)
		h.call("POST", "/v1/chat/completions", hello, on(form), 200)
	}
	for _, form := range []string{id + "0", "0x" + digits[2:], "x" + digits, strings.Repeat("g", 64)} {
		h.call("GET", "/blockchain/sessions/"+form, "", nil, 400)
		h.call("POST", "/v1/chat/completions", hello, on(form), 400)
	}
}

func TestOverlap_WaitsAndIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := proxyroutertest.New(proxyroutertest.Options{ChunkDelay: time.Minute})
		for range 2 {
			serve(t.Context(), n, "/blockchain/models/"+model+"/session", openBody, nil)
		}
		id, free := n.Stats().Sessions[0].ID, n.Stats().Sessions[1].ID
		var both sync.WaitGroup
		for _, id := range []string{id, free} {
			both.Go(func() {
				if status, body := serve(context.Background(), n, "/v1/chat/completions", hello, on(id)); status != 200 {
					t.Errorf("the first chat: status %d %s, want 200", status, body)
				}
			})
		}
		synctest.Wait() // both are being served
		begun := time.Now()
		if status, body := serve(t.Context(), n, "/v1/chat/completions", hello, on(id)); status != 200 {
			t.Errorf("the second chat: status %d %s, want 200", status, body)
		}
		if took := time.Since(begun); took != 2*time.Minute {
			t.Errorf("the second chat took %v, want a minute for the first one and a minute for itself", took)
		}
		both.Wait()
		if s := n.Stats(); s.Overlaps != 1 || s.Chats != 3 {
			t.Errorf("stats = %+v, want 3 chats and one overlap", s)
		}
	})
}

func TestClose_CountsASessionInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := proxyroutertest.New(proxyroutertest.Options{ChunkDelay: time.Minute})
		serve(t.Context(), n, "/blockchain/models/"+model+"/session", openBody, nil)
		id := n.Stats().Sessions[0].ID
		var chat sync.WaitGroup
		chat.Go(func() { serve(context.Background(), n, "/v1/chat/completions", hello, on(id)) })
		synctest.Wait()
		serve(t.Context(), n, "/blockchain/sessions/"+id+"/close", "", nil)
		chat.Wait()
		if s := n.Stats(); s.ClosedInUse != 1 {
			t.Errorf("stats = %+v, want one session closed in use", s)
		}
	})
}

func TestOverlap_IsNotCountedForSequentialRequests(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	stream := `{"stream":true,"messages":[{"role":"user","content":"a b c"}]}`
	for i := range 200 {
		body := hello
		if i%2 == 0 {
			body = stream
		}
		h.call("POST", "/v1/chat/completions", body, on(id), 200)
	}
	if s := h.node.Stats(); s.Overlaps != 0 || s.Chats != 200 || s.Sessions[0].Chats != 200 {
		t.Errorf("stats = %+v, want 200 chats on the session and no overlap", s)
	}
}

func TestChat_ContinuesWithoutItsClient(t *testing.T) {
	for name, body := range map[string]string{
		"a stream":        `{"stream":true,"messages":[{"role":"user","content":"a b c d"}]}`,
		"a single answer": hello,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := proxyroutertest.New(proxyroutertest.Options{ChunkDelay: time.Second})
				serve(t.Context(), n, "/blockchain/models/"+model+"/session", openBody, nil)
				id := n.Stats().Sessions[0].ID
				cancelled, cancel := context.WithCancel(t.Context())
				cancel()
				var first sync.WaitGroup
				first.Go(func() { serve(cancelled, n, "/v1/chat/completions", body, on(id)) })
				synctest.Wait()
				serve(t.Context(), n, "/v1/embeddings", `{"input":"a"}`, on(id))
				first.Wait()
				if s := n.Stats(); s.Overlaps != 1 {
					t.Errorf("stats = %+v, want one overlap: the chat without a client should keep the session busy", s)
				}
			})
		})
	}
}
