package proxyroutertest

import (
	"fmt"
	"net/http"
	"strings"
)

// stream sends the answer word by word as server-sent events.
func (x *chat) stream(model string, choices int, done completion, usage map[string]any) {
	x.w.Header().Set("Content-Type", "text/event-stream")
	x.w.Header().Set("Cache-Control", "no-cache")
	if x.ending.Mode == ModeEmpty {
		x.release()
		x.w.WriteHeader(http.StatusOK)
		return
	}
	events := x.events(model, choices, done)
	last := x.event(model, choicesOf(choices, map[string]any{}, done.finish), nil)
	if usage != nil {
		last = append(last, x.event(model, []any{}, usage)...)
	}
	for i, event := range events {
		if i > 0 {
			x.n.pause(x.n.opts.ChunkDelay)
		}
		if !x.send(event) {
			return
		}
		if x.ending.Mode == ModeSilence {
			x.n.hang(x.r)
		}
	}
	x.release()
	switch x.ending.Mode {
	case ModeNoEnd:
		x.send([]byte(x.ending.Body))
	case ModeHalfLine:
		x.send(last[:len(last)/2])
	default:
		x.send(append(last, "data: [DONE]\n\n"...))
		if x.ending.Mode == ModeLinger {
			x.n.pause(x.ending.Delay)
		}
	}
}

// events returns the events before the last one.
func (x *chat) events(model string, choices int, done completion) [][]byte {
	delta := func(d map[string]any) []byte { return x.event(model, choicesOf(choices, d, nil), nil) }
	if done.call != nil {
		toolDelta := func(call map[string]any) map[string]any {
			call["index"] = 0
			return map[string]any{"tool_calls": []any{call}}
		}
		first := toolDelta(map[string]any{"id": done.call.ID, "type": "function",
			"function": map[string]any{"name": done.call.Function.Name, "arguments": ""}})
		first["role"], first["content"] = "assistant", nil
		events := [][]byte{delta(first)}
		for part := range strings.SplitAfterSeq(done.call.Function.Arguments, ",") {
			events = append(events, delta(toolDelta(map[string]any{"function": map[string]any{"arguments": part}})))
		}
		return events
	}
	events := [][]byte{delta(map[string]any{"role": "assistant", "content": ""})}
	for word := range strings.SplitAfterSeq(done.content, " ") {
		events = append(events, delta(map[string]any{"content": word}))
	}
	return events
}

func choicesOf(n int, delta map[string]any, finish any) []any {
	list := make([]any, n)
	for i := range list {
		list[i] = map[string]any{"index": i, "delta": delta, "finish_reason": finish}
	}
	return list
}

func (x *chat) event(model string, choices []any, usage map[string]any) []byte {
	event := map[string]any{
		"id": x.id(), "object": "chat.completion.chunk", "created": created, "model": model, "choices": choices,
	}
	if usage != nil {
		event["usage"], event["usage_from_provider"], event["usage_from_consumer"] = usage, usage, usage
	}
	return fmt.Appendf(nil, "data: %s\n\n", mustJSON(event))
}

// send writes events and returns false if the server is closed. It returns true if
// the client has left, because the node does not notice that.
func (x *chat) send(events []byte) bool {
	if _, err := x.w.Write(events); err == nil {
		http.NewResponseController(x.w).Flush() //nolint:errcheck // the client may have left
	}
	select {
	case <-x.n.stopped:
		return false
	default:
		return true
	}
}
