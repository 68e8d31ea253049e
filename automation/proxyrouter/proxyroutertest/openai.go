package proxyroutertest

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"strings"
)

// answerChat echoes the last user message.
func answerChat(x *exchange) {
	var req struct {
		Model    string `json:"model"`
		Messages []struct {
			Role    string          `json:"role"`
			Content json.RawMessage `json:"content"`
		} `json:"messages"`
		Stream        bool `json:"stream"`
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
	}
	if json.Unmarshal(x.body, &req) != nil || len(req.Messages) == 0 {
		x.refuse("messages are missing or malformed")
		return
	}
	said, words := "", 0
	for _, m := range req.Messages {
		text := plain(m.Content)
		words += len(strings.Fields(text))
		if m.Role == "user" {
			said = text
		}
	}
	said = "You said: " + said
	usage := usageOf(words, len(strings.Fields(said)))
	if req.Stream {
		if !req.StreamOptions.IncludeUsage {
			usage = nil
		}
		x.stream(req.Model, said, usage)
		return
	}
	sleep(x.r, x.delay)
	x.answer("application/json; charset=utf-8", mustJSON(map[string]any{
		"id": x.id(), "object": "chat.completion", "created": 1750000000, "model": req.Model,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "logprobs": nil,
			"message": map[string]any{"role": "assistant", "content": said, "refusal": nil},
		}},
		"usage": usage,
	}))
}

func usageOf(prompt, completion int) map[string]any {
	return map[string]any{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
}

// plain finds the text of a message: a string, or the text parts of a list.
func plain(content json.RawMessage) string {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return text
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(content, &parts) != nil {
		return ""
	}
	all := make([]string, 0, len(parts))
	for _, p := range parts {
		if p.Text != "" {
			all = append(all, p.Text)
		}
	}
	return strings.Join(all, " ")
}

// stream sends the text word by word, and ends early when the client leaves.
func (x *exchange) stream(model, text string, usage map[string]any) {
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.Header().Set("Cache-Control", "no-cache")
	flush := http.NewResponseController(x.w)
	chunk := func(choices []any, usage map[string]any) []byte {
		event := map[string]any{
			"id": x.id(), "object": "chat.completion.chunk", "created": 1750000000, "model": model, "choices": choices,
		}
		if usage != nil {
			event["usage"] = usage
		}
		return fmt.Appendf(nil, "data: %s\n\n", mustJSON(event))
	}
	delta := func(d map[string]any, finish any) []byte {
		return chunk([]any{map[string]any{"index": 0, "delta": d, "finish_reason": finish}}, nil)
	}
	send := func(events []byte) bool {
		if _, err := x.w.Write(events); err != nil {
			return false
		}
		flush.Flush() //nolint:errcheck // the next write tells
		return x.r.Context().Err() == nil
	}
	if !send(delta(map[string]any{"role": "assistant", "content": ""}, nil)) {
		return
	}
	for _, word := range strings.SplitAfter(text, " ") {
		sleep(x.r, x.delay)
		if !send(delta(map[string]any{"content": word}, nil)) {
			return
		}
	}
	last := delta(map[string]any{}, "stop")
	if usage != nil {
		last = append(last, chunk([]any{}, usage)...)
	}
	x.free()
	send(append(last, "data: [DONE]\n\n"...))
}

const dimensions = 16

// answerEmbeddings derives vectors from the input: equal inputs, equal vectors.
func answerEmbeddings(x *exchange) {
	var req struct {
		Model      string          `json:"model"`
		Input      json.RawMessage `json:"input"`
		Format     string          `json:"encoding_format"`
		Dimensions int             `json:"dimensions"`
	}
	if json.Unmarshal(x.body, &req) != nil || len(req.Input) == 0 || req.Dimensions < 0 || req.Dimensions > 4096 {
		x.refuse("input is missing or malformed")
		return
	}
	if req.Dimensions == 0 {
		req.Dimensions = dimensions
	}
	var inputs []json.RawMessage
	if json.Unmarshal(req.Input, &inputs) != nil || (len(inputs) > 0 && json.Unmarshal(inputs[0], new(int)) == nil) {
		inputs = []json.RawMessage{req.Input} // one text, or one list of tokens
	}
	data := make([]any, 0, len(inputs))
	for i, input := range inputs {
		vector := embed(input, req.Dimensions)
		var value any = vector
		if req.Format == "base64" {
			raw, _ := binary.Append(nil, binary.LittleEndian, vector) // float32s have a size
			value = base64.StdEncoding.EncodeToString(raw)
		}
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": value})
	}
	sleep(x.r, x.delay)
	x.answer("application/json; charset=utf-8", mustJSON(map[string]any{
		"object": "list", "model": req.Model, "data": data,
		"usage": map[string]any{"prompt_tokens": len(req.Input), "total_tokens": len(req.Input)},
	}))
}

func embed(input []byte, size int) []float32 {
	vector := make([]float32, size)
	for i := range vector {
		h := fnv.New32a()
		h.Write(fmt.Appendf(nil, "%d:%s", i, input))
		vector[i] = (float32(h.Sum32()>>8)/(1<<23) - 1) / float32(math.Sqrt(float64(size)))
	}
	return vector
}

// answerTranscription names the file it was sent.
func answerTranscription(x *exchange) {
	r := x.r.Clone(x.r.Context())
	r.Body = io.NopCloser(bytes.NewReader(x.body))
	if err := r.ParseMultipartForm(32 << 20); err != nil {
		x.refuse("multipart form expected")
		return
	}
	defer r.MultipartForm.RemoveAll() //nolint:errcheck // temporary files only
	files := r.MultipartForm.File["file"]
	if len(files) == 0 {
		x.refuse("file is missing")
		return
	}
	sleep(x.r, x.delay)
	x.answer("application/json; charset=utf-8", mustJSON(map[string]any{
		"text": fmt.Sprintf("Transcript of %s, %d bytes.", files[0].Filename, files[0].Size),
	}))
}

// answerSpeech says nothing for as long as the input is long: 8 kHz, 8 bits, 10 ms a byte.
func answerSpeech(x *exchange) {
	var req struct {
		Input string `json:"input"`
	}
	if json.Unmarshal(x.body, &req) != nil || req.Input == "" {
		x.refuse("input is missing or malformed")
		return
	}
	silence := bytes.Repeat([]byte{0x80}, 80*len(req.Input))
	le := binary.LittleEndian
	wav := le.AppendUint32([]byte("RIFF"), uint32(36+len(silence)))
	wav = le.AppendUint32(append(wav, "WAVEfmt "...), 16)
	wav = le.AppendUint16(le.AppendUint16(wav, 1), 1) // PCM, mono
	wav = le.AppendUint32(le.AppendUint32(wav, 8000), 8000)
	wav = le.AppendUint16(le.AppendUint16(wav, 1), 8)
	wav = le.AppendUint32(append(wav, "data"...), uint32(len(silence)))
	sleep(x.r, x.delay)
	x.answer("audio/wav", append(wav, silence...))
}

func (x *exchange) id() string {
	return "chatcmpl-" + digest(x.r.Header.Get("X-Request-Id"), string(x.body))[2:26]
}

func (x *exchange) answer(contentType string, body []byte) {
	x.free()
	x.w.Header().Set("Content-Type", contentType)
	x.w.WriteHeader(http.StatusOK)
	x.w.Write(body) //nolint:errcheck // the client may have left
}

// refuse is the model's own refusal of a request.
func (x *exchange) refuse(why string) {
	x.free()
	fail(x.w, http.StatusBadRequest, why)
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // only values of our own are encoded
	}
	return raw
}
