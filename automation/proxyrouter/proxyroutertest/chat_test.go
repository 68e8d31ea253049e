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
	p := start(t, proxyroutertest.Options{OnChat: func(r *http.Request, body []byte) { seen = r.URL.Path + string(body) }})
	header := on(p.open())
	header.Set("X-Request-Id", "r-1")
	resp, raw, err := p.send(t.Context(), "POST", "/v1/chat/completions", hello, header)
	if err != nil || resp.Header.Get("X-Request-Id") != "r-1" {
		t.Errorf("header %v, %v", resp, err)
	}
	wantText(t, string(raw), `"content":"You said: hello there"`, `"object":"chat.completion"`, `"finish_reason":"stop"`, `"total_tokens":6`)
	if seen != "/v1/chat/completions"+hello {
		t.Errorf("OnChat saw %s", seen)
	}
	parts := `{"messages":[{"role":"user","content":[{"type":"text","text":"look"},{"type":"image_url"},{"type":"text","text":"here"}]},{"role":"assistant","content":null}]}`
	wantText(t, p.call("POST", "/v1/chat/completions", parts, header, 200), "You said: look here")
	for _, body := range []string{``, `{}`, `{"messages":7}`} {
		p.call("POST", "/v1/chat/completions", body, header, 400)
	}
	wantText(t, p.call("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":7}]}`, header, 200), "You said: ")
}

func TestStream_ComesInChunks(t *testing.T) {
	p := start(t, proxyroutertest.Options{ChunkDelay: time.Millisecond})
	id := p.open()
	got := p.call("POST", "/v1/chat/completions",
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
			t.Fatalf("%s: %v", event, err)
		}
		if chunk.Usage != nil {
			usage = chunk.Usage.TotalTokens
			continue
		}
		if (i == 0) != (chunk.Choices[0].Delta.Role == "assistant") {
			t.Errorf("chunk %d: %s", i, event)
		}
		text.WriteString(chunk.Choices[0].Delta.Content)
		if chunk.Choices[0].FinishReason != nil {
			finish++
		}
	}
	if text.String() != "You said: hello there" || finish != 1 || usage != 6 || events[len(events)-1] != "data: [DONE]" {
		t.Errorf("%q, finish %d, usage %d:\n%s", text.String(), finish, usage, got)
	}
	if got := p.call("POST", "/v1/chat/completions", `{"stream":true,"messages":[{"role":"user"}]}`, on(id), 200); strings.Contains(got, "usage") {
		t.Errorf("usage unasked: %s", got)
	}
}

func TestEmbeddings_AgreeInBothFormats(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	header := on(p.open())
	vectors := func(body string) (all [][]float32) {
		t.Helper()
		var got struct {
			Data []struct {
				Index     int
				Embedding json.RawMessage
			}
		}
		if err := json.Unmarshal([]byte(p.call("POST", "/v1/embeddings", body, header, 200)), &got); err != nil {
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
				t.Errorf("index %d at %d", d.Index, i)
			}
			all = append(all, v)
		}
		return all
	}
	floats := vectors(`{"input":["a","b"]}`)
	if diff := cmp.Diff(floats, vectors(`{"input":["a","b"],"encoding_format":"base64"}`)); diff != "" {
		t.Errorf("formats differ:\n%s", diff)
	}
	if diff := cmp.Diff(floats[:1], vectors(`{"input":"a"}`)); diff != "" {
		t.Errorf("a text alone differs:\n%s", diff)
	}
	if cmp.Equal(floats[0], floats[1]) || len(floats[0]) != 16 {
		t.Errorf("vectors = %v", floats)
	}
	if n := len(vectors(`{"input":[1,2,3]}`)); n != 1 {
		t.Errorf("%d vectors for one list of tokens", n)
	}
	if v := vectors(`{"input":[[1],[2]],"dimensions":3}`); len(v) != 2 || len(v[0]) != 3 {
		t.Errorf("vectors = %v", v)
	}
	p.call("POST", "/v1/embeddings", `{}`, header, 400)
	p.call("POST", "/v1/embeddings", `{"input":"a","dimensions":-1}`, header, 400)
}

func TestAudio_TranscribesAndSpeaks(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	id := p.open()
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
	if got := p.call("POST", "/v1/audio/transcriptions", body, header, 200); got != `{"text":"Transcript of talk.mp3, 5 bytes."}` {
		t.Error(got)
	}
	body, header = form("other")
	p.call("POST", "/v1/audio/transcriptions", body, header, 400)
	p.call("POST", "/v1/audio/transcriptions", `{}`, on(id), 400)

	if got := p.call("POST", "/v1/audio/speech", `{"input":"hi"}`, on(id), 200); !strings.HasPrefix(got, "RIFF") || len(got) != 44+160 {
		t.Errorf("%d bytes of speech", len(got))
	}
	p.call("POST", "/v1/audio/speech", `{}`, on(id), 400)
}

func TestChat_NeedsASession(t *testing.T) {
	clock := &fakeClock{time.Unix(1750000000, 0).UTC()}
	p := start(t, proxyroutertest.Options{Now: clock.now})
	id, closed, expired := p.open(), p.open(), p.open()
	chat := func(header http.Header, status int) string {
		t.Helper()
		return p.call("POST", "/v1/chat/completions", hello, header, status)
	}
	wantText(t, chat(nil, 400), "session_id")
	wantText(t, chat(on("0x1"), 400), "session_id")
	wantText(t, chat(on(model), 500), "session not found")
	p.call("POST", "/blockchain/sessions/"+closed+"/close", "", nil, 200)
	chat(on(closed), 200) // closed before its end: nobody looks at the chain
	const ended = "provider request failed: provider error: session expired"
	if !p.node.Expire(expired) || p.node.Expire("0x1") {
		t.Error("Expire is wrong about which sessions exist")
	}
	wantText(t, chat(on(expired), 500), ended)
	clock.Time = clock.Add(3598 * time.Second)
	chat(on(id), 200)
	clock.Time = clock.Add(time.Second)
	wantText(t, chat(on(id), 500), ended)
	wantText(t, chat(on(closed), 500), ended)
	if s := p.node.Stats(); s.Unknown != 1 || s.Chats != 2 || s.ChatsOnClosed != 1 || s.Overlaps != 0 {
		t.Errorf("stats = %+v", s)
	}
}

func TestIDs_AreParsedAsTheNodeDoes(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	id := p.open()
	for id[2] != '0' { // one whose first digit may be left out
		id = p.open()
	}
	digits := strings.TrimPrefix(id, "0x")
	for _, form := range []string{id, digits, strings.ToUpper(digits), "0X" + strings.ToUpper(digits), "0x" + digits[1:], digits[1:]} {
		p.call("GET", "/blockchain/sessions/"+form, "", nil, 200)
		p.call("POST", "/v1/chat/completions", hello, on(form), 200)
	}
	for _, form := range []string{id + "0", "0x" + digits[2:], "x" + digits, strings.Repeat("g", 64)} {
		p.call("GET", "/blockchain/sessions/"+form, "", nil, 400)
		p.call("POST", "/v1/chat/completions", hello, on(form), 400)
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
					t.Error(body)
				}
			})
		}
		synctest.Wait() // both are being served
		begun := time.Now()
		if status, body := serve(t.Context(), n, "/v1/chat/completions", hello, on(id)); status != 200 {
			t.Errorf("the second: %d %s", status, body)
		}
		if took := time.Since(begun); took != 2*time.Minute {
			t.Errorf("it did not wait for the first: %v", took)
		}
		both.Wait()
		if s := n.Stats(); s.Overlaps != 1 || s.Chats != 3 {
			t.Errorf("stats = %+v", s)
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
			t.Errorf("stats = %+v", s)
		}
	})
}

func TestOverlap_IsNotCountedForRequestsInTurn(t *testing.T) {
	p := start(t, proxyroutertest.Options{})
	id := p.open()
	stream := `{"stream":true,"messages":[{"role":"user","content":"a b c"}]}`
	for i := range 200 {
		body := hello
		if i%2 == 0 {
			body = stream
		}
		p.call("POST", "/v1/chat/completions", body, on(id), 200)
	}
	if s := p.node.Stats(); s.Overlaps != 0 || s.Chats != 200 || s.Sessions[0].Chats != 200 {
		t.Errorf("stats = %+v", s)
	}
}

func TestChat_ContinuesWithoutItsClient(t *testing.T) {
	for name, body := range map[string]string{
		"a stream":              `{"stream":true,"messages":[{"role":"user","content":"a b c d"}]}`,
		"one that is no stream": hello,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := proxyroutertest.New(proxyroutertest.Options{ChunkDelay: time.Second})
				serve(t.Context(), n, "/blockchain/models/"+model+"/session", openBody, nil)
				id := n.Stats().Sessions[0].ID
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				var first sync.WaitGroup
				first.Go(func() { serve(gone, n, "/v1/chat/completions", body, on(id)) })
				synctest.Wait()
				serve(t.Context(), n, "/v1/embeddings", `{"input":"a"}`, on(id))
				first.Wait()
				if s := n.Stats(); s.Overlaps != 1 {
					t.Errorf("the session was free: %+v", s)
				}
			})
		})
	}
}
