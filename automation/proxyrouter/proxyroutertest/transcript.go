package proxyroutertest

import (
	"encoding/json"
	"net/http"
	"slices"
)

// exchange is one prompt and its answer in a transcript. The node keeps a
// transcript for each chat_id, and adds it to each later request with that chat_id,
// whoever makes it.
type exchange struct {
	Prompt   json.RawMessage `json:"prompt"`
	Response string          `json:"response"`
}

func (n *Node) transcript(chatID string) []exchange {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.transcripts[chatID])
}

func (n *Node) addExchange(chatID string, prompt []byte, response string) {
	if response == "" {
		return // the chat failed
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.transcripts[chatID] = append(n.transcripts[chatID], exchange{slices.Clone(prompt), response})
}

// prependHistory puts the first message of each earlier prompt, and its answer,
// before the body's messages.
func prependHistory(body []byte, history []exchange) []byte {
	var request map[string]json.RawMessage
	var messages []json.RawMessage
	if len(history) == 0 || json.Unmarshal(body, &request) != nil || json.Unmarshal(request["messages"], &messages) != nil {
		return body
	}
	var all []json.RawMessage
	for _, e := range history {
		var prompt struct {
			Messages []json.RawMessage `json:"messages"`
		}
		if json.Unmarshal(e.Prompt, &prompt) == nil && len(prompt.Messages) > 0 {
			all = append(all, prompt.Messages[0], mustJSON(map[string]string{"role": "assistant", "content": e.Response}))
		}
	}
	request["messages"] = mustJSON(append(all, messages...))
	return mustJSON(request)
}

// serveTranscript answers like the node's chat history, with fewer fields.
func (n *Node) serveTranscript(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		writeError(w, http.StatusBadRequest, err.Error())
		return
	}
	messages := n.transcript(id)
	if messages == nil {
		writeError(w, http.StatusInternalServerError, "chat not found")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"title": "", "isLocal": false, "messages": messages})
}
