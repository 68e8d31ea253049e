package proxyroutertest_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// choice is one choice of an answer. Those of a stream are joined from its chunks.
type choice struct {
	Content, Finish, Tool, Arguments string
}

// complete requests a completion as a single answer and as a stream, checks that
// both have the same choices, and returns them.
func (h harness) complete(id, fields string) []choice {
	h.t.Helper()
	body := `{"messages":[{"role":"user","content":"hello big wide world"}],` + fields + `}`
	whole := decodeChoices(h.t, h.call("POST", "/v1/chat/completions", body, on(id), 200))
	streamed := []choice{}
	for event := range strings.SplitSeq(h.call("POST", "/v1/chat/completions", strings.Replace(body, "{", `{"stream":true,`, 1), on(id), 200), "\n\n") {
		data := strings.TrimPrefix(event, "data: ")
		if data == "" || data == "[DONE]" {
			continue
		}
		for i, c := range decodeChoices(h.t, data) {
			if i == len(streamed) {
				streamed = append(streamed, choice{})
			}
			s := &streamed[i]
			s.Content, s.Finish, s.Tool, s.Arguments = s.Content+c.Content, s.Finish+c.Finish, s.Tool+c.Tool, s.Arguments+c.Arguments
		}
	}
	if diff := cmp.Diff(whole, streamed); diff != "" {
		h.t.Errorf("with %s the stream differs from the single answer (-single +streamed):\n%s", fields, diff)
	}
	return whole
}

func decodeChoices(t *testing.T, body string) (all []choice) {
	t.Helper()
	type message struct {
		Content   string
		ToolCalls []struct {
			Function struct{ Name, Arguments string }
		} `json:"tool_calls"`
	}
	var got struct {
		Choices []struct {
			Message, Delta message
			FinishReason   string `json:"finish_reason"`
		}
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("decoding the choices of %s: %v", body, err)
	}
	for _, c := range got.Choices {
		one := choice{Content: c.Message.Content + c.Delta.Content, Finish: c.FinishReason}
		for _, call := range append(c.Message.ToolCalls, c.Delta.ToolCalls...) {
			one.Tool, one.Arguments = call.Function.Name, call.Function.Arguments
		}
		all = append(all, one)
	}
	return all
}

func TestChat_HonoursOpenAIFeatures(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	const tools = `"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object","properties":{
		"city":{"type":"string"},"unit":{"enum":["C","F"]},"days":{"type":["integer","null"]},"alerts":{"type":"array","items":{"type":"boolean"}}}}}},
		{"type":"function","function":{"name":"time"}}]`
	const said = "You said: hello big wide world"
	weather := choice{Finish: "tool_calls", Tool: "weather", Arguments: `{"alerts":[true],"city":"hello big wide world","days":1,"unit":"C"}`}
	for name, test := range map[string]struct {
		fields string
		want   []choice
	}{
		"n":               {`"n":3`, []choice{{said, "stop", "", ""}, {said, "stop", "", ""}, {said, "stop", "", ""}}},
		"stop":            {`"stop":["wide","big"]`, []choice{{"You said: hello ", "stop", "", ""}}},
		"max_tokens":      {`"max_tokens":3`, []choice{{"You said: hello ", "length", "", ""}}},
		"tools":           {tools, []choice{weather}},
		"a chosen tool":   {tools + `,"tool_choice":{"type":"function","function":{"name":"time"}}`, []choice{{"", "tool_calls", "time", "{}"}}},
		"a required tool": {tools + `,"tool_choice":"required"`, []choice{weather}},
		"no tool":         {tools + `,"tool_choice":"none"`, []choice{{said, "stop", "", ""}}},
		"JSON mode":       {`"response_format":{"type":"json_object"}`, []choice{{`{"you_said":"hello big wide world"}`, "stop", "", ""}}},
		"a JSON schema":   {`"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object","properties":{"ok":{"const":"yes"},"n":{"anyOf":[{"type":"number"}]}}}}}`, []choice{{`{"n":1,"ok":"yes"}`, "stop", "", ""}}},
		"ignored fields":  {`"temperature":0.5`, []choice{{said, "stop", "", ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			if diff := cmp.Diff(test.want, h.complete(id, test.fields)); diff != "" {
				t.Errorf("choices (-want +got):\n%s", diff)
			}
		})
	}
	h.t = t
	wantText(t, h.call("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":null},
		{"role":"tool","content":"sunny"}],`+tools+`}`, on(id), 200), "The tool said: sunny")
	wantText(t, h.call("POST", "/v1/chat/completions", hello, on(id), 200), `"usage_from_consumer":{`, `"usage_from_provider":{`)
}

func TestChat_DecodesStrictly(t *testing.T) {
	h := start(t, proxyroutertest.Options{})
	id := h.open()
	for _, field := range []string{`"stop":"x"`, `"n":"1"`, `"max_tokens":1.5`, `"tools":{}`, `"model":7`} {
		wantText(t, h.call("POST", "/v1/chat/completions", `{"messages":[{"role":"user","content":"a"}],`+field+`}`, on(id), 400), "cannot unmarshal")
	}
}
