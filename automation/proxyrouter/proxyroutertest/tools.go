package proxyroutertest

import "encoding/json"

// tool is a function that the model may call.
type tool struct {
	Type     string `json:"type"`
	Function struct {
		Name       string          `json:"name"`
		Parameters json.RawMessage `json:"parameters"`
	} `json:"function"`
}

type toolCall struct {
	ID       string       `json:"id"`
	Type     string       `json:"type"`
	Function functionCall `json:"function"`
}

type functionCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// chosenTool returns the tool that tool_choice names, or else the first. It returns
// nil if the request has no tools or tool_choice is "none".
func (req *completionRequest) chosenTool() *tool {
	if len(req.Tools) == 0 || req.ToolChoice == "none" {
		return nil
	}
	var choice struct {
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(mustJSON(req.ToolChoice), &choice) == nil {
		for i := range req.Tools {
			if req.Tools[i].Function.Name == choice.Function.Name {
				return &req.Tools[i]
			}
		}
	}
	return &req.Tools[0]
}

// call returns a call of the tool, with arguments that fit its schema.
func (t *tool) call(id, user string) *toolCall {
	return &toolCall{ID: "call_" + digest(id)[2:26], Type: "function",
		Function: functionCall{t.Function.Name, string(mustJSON(exampleOf(t.Function.Parameters, user)))}}
}

// exampleOf returns a value that fits a JSON schema, with text for each string.
func exampleOf(raw json.RawMessage, text string) any {
	return example(raw, text, 0)
}

func example(raw json.RawMessage, text string, depth int) any {
	var schema struct {
		Type       any                        `json:"type"`
		Enum       []any                      `json:"enum"`
		Const      any                        `json:"const"`
		AnyOf      []json.RawMessage          `json:"anyOf"`
		Properties map[string]json.RawMessage `json:"properties"`
		Items      json.RawMessage            `json:"items"`
	}
	if json.Unmarshal(raw, &schema) != nil || depth > 10 {
		return map[string]any{}
	}
	kind := schema.Type
	if kinds, ok := kind.([]any); ok && len(kinds) > 0 { // such as ["string", "null"]
		kind = kinds[0]
	}
	switch {
	case schema.Const != nil:
		return schema.Const
	case len(schema.Enum) > 0:
		return schema.Enum[0]
	case len(schema.AnyOf) > 0:
		return example(schema.AnyOf[0], text, depth+1)
	}
	switch kind {
	case "string":
		return text
	case "number", "integer":
		return 1
	case "boolean":
		return true
	case "null":
		return nil
	case "array":
		return []any{example(schema.Items, text, depth+1)}
	}
	object := make(map[string]any, len(schema.Properties))
	for name, property := range schema.Properties {
		object[name] = example(property, text, depth+1)
	}
	return object
}
