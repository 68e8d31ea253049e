package clients_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
)

const chatModel = "llama-3.3-70b"

// read returns a streamed chat's text, its reason to finish, and its error.
func read(ctx context.Context, client openai.Client) (text, finish string, err error) {
	stream := client.Chat.Completions.NewStreaming(ctx, hello(chatModel))
	defer func() { _ = stream.Close() }()
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text += choice.Delta.Content
			finish += choice.FinishReason
		}
	}
	return text, finish, stream.Err()
}

func TestGoSDK_ReturnsTheNodesFaultsAsErrors(t *testing.T) {
	node := startNode(t, proxyroutertest.Options{ChunkDelay: 5 * time.Millisecond})
	s := start(t, t.TempDir(), "PROXY_ROUTER_URL="+node.URL)
	inject := func(t *testing.T, f proxyroutertest.Fault) openai.Client {
		node.Inject(f)
		t.Cleanup(node.ClearFaults)
		return s.client("sk-" + strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(t.Name())))
	}
	for _, name := range []string{"stream-bare-json", "stream-ends", "stream-half-line", "chat-cut"} {
		t.Run("a stream: "+name, func(t *testing.T) {
			text, _, err := read(t.Context(), inject(t, proxyroutertest.Fault{Name: name}))
			if err == nil || text == "" {
				t.Errorf("the stream gave the text %q and the error %v, want some text and an error", text, err)
			}
		})
	}
	for name, want := range map[string]struct {
		status            int
		code, param, text string
	}{
		"empty-answer":         {502, "provider_error", "", ""},
		"chat-cut":             {502, "provider_error", "", ""},
		"chat-drop":            {502, "provider_error", "", ""},
		"switching-protocols":  {503, "session_unavailable", "", ""},
		"model-context-length": {400, "context_length_exceeded", "messages", "This model's maximum context length is 8192 tokens."},
		"model-content-filter": {400, "content_filter", "prompt", "The prompt was filtered."},
		"model-rate-limit":     {429, "rate_limit_exceeded", "", "Rate limit reached for requests"},
	} {
		t.Run("an answer: "+name, func(t *testing.T) {
			client := inject(t, proxyroutertest.Fault{Name: name})
			_, err := client.Chat.Completions.New(t.Context(), hello(chatModel))
			e, ok := errors.AsType[*openai.Error](err)
			if !ok || e.StatusCode != want.status || e.Code != want.code || e.Param != want.param || want.text != "" && e.Message != want.text {
				t.Fatalf("the chat's error is %v, want %+v", err, want)
			}
			if want.status == http.StatusTooManyRequests && e.Response.Header.Get("Retry-After") != "7" {
				t.Errorf("Retry-After is %q, want 7", e.Response.Header.Get("Retry-After"))
			}
		})
	}
	t.Run("a link in a model's own error", func(t *testing.T) {
		const message = "Rate limit reached. Visit https://platform.openai.com/account/rate-limits to learn more."
		client := inject(t, proxyroutertest.Fault{Op: proxyroutertest.OpChat, Status: http.StatusTooManyRequests,
			Body: `{"providerModelError":{"error":{"message":"` + message + `","type":"requests","param":null,"code":"rate_limit_exceeded"}},"statusCode":429}`})
		_, err := client.Chat.Completions.New(t.Context(), hello(chatModel))
		if e, ok := errors.AsType[*openai.Error](err); !ok || e.StatusCode != http.StatusTooManyRequests || e.Message != message {
			t.Errorf("the chat's error is %v, want 429 with the model's message", err)
		}
	})
	t.Run("a route that the node lacks, requested twice", func(t *testing.T) {
		client := s.client("sk-responses")
		for range 2 {
			_, err := client.Responses.New(t.Context(), responses.ResponseNewParams{
				Model: chatModel, Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Hello")}})
			e, ok := errors.AsType[*openai.Error](err)
			if !ok || e.StatusCode != http.StatusNotFound || e.Code != "unknown_url" || !strings.Contains(e.Message, "does not have this route") {
				t.Errorf("the error is %v, want 404 unknown_url", err)
			}
		}
	})
	t.Run("a node that keeps the connection open does not delay the end of the stream", func(t *testing.T) {
		text, finish, err := read(t.Context(), inject(t, proxyroutertest.Fault{Name: "stream-lingers", Delay: time.Hour}))
		if err != nil || finish != "stop" || text == "" {
			t.Errorf("the stream gave %q, finish reason %q, error %v; want a text, stop and no error", text, finish, err)
		}
	})
	s.Terminate(t)
}

func TestGoSDK_CallsToolsSpeaksAndListsModels(t *testing.T) {
	s := start(t, t.TempDir())
	alice := s.client("sk-alice")

	t.Run("tools", func(t *testing.T) {
		params := hello(chatModel)
		params.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{
			Name: "weather", Parameters: openai.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}},
		})}
		completion, err := alice.Chat.Completions.New(t.Context(), params)
		if err != nil || len(completion.Choices[0].Message.ToolCalls) != 1 {
			t.Fatalf("completion %+v, error %v; want one tool call", completion, err)
		}
		if call := completion.Choices[0].Message.ToolCalls[0].Function; call.Name != "weather" || !json.Valid([]byte(call.Arguments)) {
			t.Errorf("tool call %+v, want weather with arguments in JSON", call)
		}
	})
	for name, format := range map[string]openai.ChatCompletionNewParamsResponseFormatUnion{
		"you_said": {OfJSONObject: &openai.ResponseFormatJSONObjectParam{}},
		"city": {OfJSONSchema: &openai.ResponseFormatJSONSchemaParam{JSONSchema: openai.ResponseFormatJSONSchemaJSONSchemaParam{Name: "place", Strict: openai.Bool(true),
			Schema: map[string]any{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}, "required": []string{"city"}, "additionalProperties": false}}}},
	} {
		t.Run("JSON mode, streamed or not: "+name, func(t *testing.T) {
			params := hello(chatModel)
			params.ResponseFormat = format
			completion, err := alice.Chat.Completions.New(t.Context(), params)
			if err != nil {
				t.Fatal(err)
			}
			stream, streamed := alice.Chat.Completions.NewStreaming(t.Context(), params), openai.ChatCompletionAccumulator{}
			for stream.Next() {
				streamed.AddChunk(stream.Current())
			}
			if err := stream.Err(); err != nil {
				t.Fatal(err)
			}
			for _, choices := range [][]openai.ChatCompletionChoice{completion.Choices, streamed.Choices} {
				var object map[string]string
				if len(choices) != 1 || json.Unmarshal([]byte(choices[0].Message.Content), &object) != nil || object[name] == "" {
					t.Errorf("choices %+v, want one with a JSON object that has the field %s", choices, name)
				}
			}
		})
	}
	t.Run("audio", func(t *testing.T) {
		speech, err := alice.Audio.Speech.New(t.Context(), openai.AudioSpeechNewParams{Model: "tts-kokoro", Input: "Hello", Voice: openai.AudioSpeechNewParamsVoiceUnion{OfString: openai.String("alloy")}})
		if err != nil {
			t.Fatal(err)
		}
		defer speech.Body.Close()
		audio, err := io.ReadAll(speech.Body)
		if err != nil || len(audio) == 0 {
			t.Fatalf("speech has %d bytes, error %v; want audio", len(audio), err)
		}
		text, err := alice.Audio.Transcriptions.New(t.Context(), openai.AudioTranscriptionNewParams{
			Model: "whisper-v3-large-turbo", File: openai.File(strings.NewReader(string(audio)), "hello.wav", "audio/wav")})
		if err != nil || text.Text == "" {
			t.Errorf("transcription %+v, error %v; want a text", text, err)
		}
	})
	t.Run("models", func(t *testing.T) {
		models := alice.Models.ListAutoPaging(t.Context())
		n := 0
		for models.Next() {
			n++
			id := models.Current().ID
			if model, err := alice.Models.Get(t.Context(), id); err != nil || model.ID != id {
				t.Errorf("retrieving the listed model %s: %+v, error %v", id, model, err)
			}
		}
		if models.Err() != nil || n == 0 {
			t.Errorf("%d models are listed, error %v; want at least one", n, models.Err())
		}
	})
	t.Run("after an abort the user is served", func(t *testing.T) {
		params := hello(chatModel)
		params.Messages = []openai.ChatCompletionMessageParamUnion{openai.UserMessage(strings.Repeat("word ", 20))}
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			stream := alice.Chat.Completions.NewStreaming(ctx, params)
			if !stream.Next() {
				t.Fatal(stream.Err())
			}
			cancel()
			_ = stream.Close()
		}
		if _, err := alice.Chat.Completions.New(t.Context(), hello(chatModel)); err != nil {
			t.Error(err)
		}
	})
	t.Run("another user's session, in every spelling", func(t *testing.T) {
		var first *http.Response
		if _, err := alice.Chat.Completions.New(t.Context(), hello(chatModel), option.WithResponseInto(&first)); err != nil {
			t.Fatal(err)
		}
		id := first.Header.Get("X-Automation-Session")
		mallory := s.client("sk-mallory")
		for _, spelling := range []string{id, strings.TrimPrefix(id, "0x"), "0x" + strings.ToUpper(id[2:])} {
			_, err := mallory.Chat.Completions.New(t.Context(), hello(chatModel), option.WithHeader("session_id", spelling))
			if e, ok := errors.AsType[*openai.Error](err); !ok || e.StatusCode != http.StatusNotFound || e.Code != "session_not_found" {
				t.Errorf("a chat on another user's session, spelled %s: error %v, want 404 session_not_found", spelling, err)
			}
		}
	})
	s.Terminate(t)
}
