package proxyroutertest

import (
	"encoding/json"
	"net/http"
	"strings"
)

// completionRequest is decoded as strictly as by the node: a value of another
// type, such as a single string for stop, is an error.
type completionRequest struct {
	Model         string    `json:"model"`
	Messages      []message `json:"messages"`
	Stream        bool      `json:"stream"`
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	N                   int      `json:"n"`
	Stop                []string `json:"stop"`
	MaxTokens           int      `json:"max_tokens"`
	MaxCompletionTokens int      `json:"max_completion_tokens"`
	Tools               []tool   `json:"tools"`
	ToolChoice          any      `json:"tool_choice"`
	ResponseFormat      struct {
		Type       string `json:"type"`
		JSONSchema struct {
			Schema json.RawMessage `json:"schema"`
		} `json:"json_schema"`
	} `json:"response_format"`
	Temperature float32 `json:"temperature"`
	TopP        float32 `json:"top_p"`
	User        string  `json:"user"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// text returns the content: a string, or the text parts of a list.
func (m message) text() string {
	var text string
	if json.Unmarshal(m.Content, &text) == nil {
		return text
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(m.Content, &parts) != nil {
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

// completion is the model's answer, the same for each of the n choices.
type completion struct {
	content string
	call    *toolCall // instead of content
	finish  string
}

// answerChat echoes the last message of the user, or calls a tool with it.
func answerChat(x *chat) {
	var req completionRequest
	if err := json.Unmarshal(x.body, &req); err != nil {
		x.reject(err.Error())
		return
	}
	if len(req.Messages) == 0 {
		x.reject("messages are missing")
		return
	}
	done := req.complete(x.id())
	x.text = done.content
	prompt := 0
	for _, m := range req.Messages {
		prompt += len(strings.Fields(m.text()))
	}
	req.N = max(req.N, 1)
	usage := usageOf(prompt, req.N*len(strings.Fields(done.content)))
	if req.Stream {
		if !req.StreamOptions.IncludeUsage {
			usage = nil
		}
		x.stream(req.Model, req.N, done, usage)
		return
	}
	x.n.pause(x.n.opts.ChunkDelay)
	reply := map[string]any{"role": "assistant", "content": done.content, "refusal": nil}
	if done.call != nil {
		reply["content"], reply["tool_calls"] = nil, []any{done.call}
	}
	choices := make([]any, req.N)
	for i := range choices {
		choices[i] = map[string]any{"index": i, "finish_reason": done.finish, "logprobs": nil, "message": reply}
	}
	x.respond("application/json; charset=utf-8", mustJSON(map[string]any{
		"id": x.id(), "object": "chat.completion", "created": created, "model": req.Model, "choices": choices,
		"usage": usage, "usage_from_provider": usage, "usage_from_consumer": usage,
	}))
}

// created is the time of creation of every answer.
const created = 1750000000

// complete returns the model's answer. The id determines that of a tool call.
func (req *completionRequest) complete(id string) completion {
	user := ""
	for _, m := range req.Messages {
		if m.Role == "user" {
			user = m.text()
		}
	}
	last := req.Messages[len(req.Messages)-1]
	if t := req.chosenTool(); t != nil && last.Role == "user" {
		return completion{call: t.call(id, user), finish: "tool_calls"}
	}
	done := completion{content: "You said: " + user, finish: "stop"}
	switch {
	case req.ResponseFormat.Type == "json_schema":
		done.content = string(mustJSON(exampleOf(req.ResponseFormat.JSONSchema.Schema, user)))
	case req.ResponseFormat.Type == "json_object":
		done.content = string(mustJSON(map[string]string{"you_said": user}))
	case last.Role == "tool":
		done.content = "The tool said: " + last.text()
	}
	if words := strings.SplitAfter(done.content, " "); len(words) > req.maxWords() {
		done.content, done.finish = strings.Join(words[:req.maxWords()], ""), "length"
	}
	for _, stop := range req.Stop {
		if before, _, found := strings.Cut(done.content, stop); found && stop != "" {
			done.content, done.finish = before, "stop"
		}
	}
	return done
}

// maxWords returns the request's limit of tokens. To the simulated model, a word is
// one token.
func (req *completionRequest) maxWords() int {
	if limit := max(req.MaxTokens, req.MaxCompletionTokens); limit > 0 {
		return limit
	}
	return 1 << 30
}

func usageOf(prompt, completion int) map[string]any {
	return map[string]any{"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
}

func (x *chat) id() string {
	return "chatcmpl-" + digest(x.r.Header.Get("X-Request-Id"), string(x.body))[2:26]
}

// respond sends an answer that is not streamed.
func (x *chat) respond(contentType string, body []byte) {
	x.release()
	switch x.ending.Mode {
	case ModeEmpty:
		body = nil
	case ModeNoEnd, ModeHalfLine:
		body = append(body[:len(body)/2:len(body)/2], x.ending.Body...)
	case ModeSilence:
		x.n.hang(x.r)
	}
	x.w.Header().Set("Content-Type", contentType)
	x.w.WriteHeader(http.StatusOK)
	x.w.Write(body) //nolint:errcheck // the client may have left
	if x.ending.Mode == ModeLinger {
		http.NewResponseController(x.w).Flush() //nolint:errcheck // the client may have left
		x.n.pause(x.ending.Delay)
	}
}

// reject answers like the node does to a body that it cannot decode.
func (x *chat) reject(text string) {
	x.release()
	writeError(x.w, http.StatusBadRequest, text)
}
