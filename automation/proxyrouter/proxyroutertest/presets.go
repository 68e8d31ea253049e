package proxyroutertest

import (
	"net/http"
	"time"
)

// Preset is a fault with a name. Inject needs only the name:
//
//	node.Inject(proxyroutertest.Fault{Name: "stream-bare-json", Times: 1})
type Preset struct {
	Name, Description string

	fault Fault
}

// ProviderModelError is an error of the model behind a provider. A current node
// answers with the model's status, a node in ModeOldNode with 400.
func ProviderModelError(status int, message string) Fault {
	return Fault{Op: OpChat, model: &modelError{status: status, message: message}}
}

// OldProviderModelError is an error of the model behind a provider, always sent as
// an old node sends it: with status 400 and without the model's status.
func OldProviderModelError(message string) Fault {
	body := mustJSON(map[string]any{"providerModelError": map[string]any{"error": map[string]any{"message": message}}})
	return Fault{Op: OpChat, Status: http.StatusBadRequest, Body: string(body)}
}

// Presets lists the failures that were seen at real nodes, for tests that iterate
// over them and for people to choose from.
func Presets() []Preset {
	chat := func(text string) Fault { return Fault{Op: OpChat, Text: text} }
	return []Preset{
		{"open-refused", "No provider accepts the session; nothing is paid.", Fault{Op: OpOpen,
			Text: `no provider accepting session: [{"provider":"0x1","reason":"failed to initiate session: response error: error: model unhealthy, result: <nil>"}]`}},
		{"open-refused-stake", "The open is refused before its transaction; nothing is paid.", Fault{Op: OpOpen, Text: "failed to get min stake: EOF"}},
		{"open-nonce", "The open's transaction collides with another of the wallet.", Fault{Op: OpOpen,
			Text: "failed to send transaction: open session failed: nonce too low: next nonce 7, tx nonce 6"}},
		{"open-no-eth-paid", "The open says that there is no ETH, while its transaction is pending and gets through.", Fault{Op: OpOpen, After: true,
			Text: "failed to send transaction: insufficient ETH for gas"}},
		{"open-lost-reply", "The session is opened and paid, and the connection breaks before the answer.", Fault{Op: OpOpen, Mode: ModeDrop, After: true}},
		{"open-error-paid", "The session is opened and paid, and the answer is an error.", Fault{Op: OpOpen, After: true, Text: "context deadline exceeded"}},
		{"open-hangs", "The chain makes no new blocks: the open never answers.", Fault{Op: OpOpen, Mode: ModeHang}},
		{"open-hangs-paid", "The session is opened and paid, and the open never answers.", Fault{Op: OpOpen, Mode: ModeHang, After: true}},
		{"open-slow", "The open takes 20 s longer.", Fault{Op: OpOpen, After: true, Status: http.StatusOK, Delay: 20 * time.Second}},
		{"close-not-found", "A close fails on the chain's endpoint, and the node says that the session is missing.", Fault{Op: OpClose, Text: "session not found"}},
		{"get-rpc-error", "A session cannot be read from the chain.", Fault{Op: OpGet, Text: `failed to get session: Post "https://rpc.invalid/v2/key": EOF`}},

		{"chat-not-found", "A chat fails on the chain's endpoint, and the node says that the session is missing.", chat("session not found")},
		{"chat-expired", "The provider says that the session has expired.", chat(expiredError)},
		{"lost-storage", "The node has lost its storage: it knows no provider until a session is initiated or opened.", Fault{Mode: ModeLoseStorage}},
		{"provider-lost-storage", "The providers have lost their storage: they know no user until a session is initiated or opened.", Fault{Mode: ModeLoseStorage, Text: providerForgot}},
		{"provider-down", "The provider cannot be reached.", chat("provider request failed: failed to connect to provider")},
		{"provider-hangs", "The provider never answers.", Fault{Op: OpChat, Mode: ModeHang}},
		{"tee-failed", "The provider's attestation fails.", chat("p-node tee attestation failed: quote")},
		{"chat-drop", "The node closes the connection without an answer.", Fault{Op: OpChat, Mode: ModeDrop}},
		{"chat-cut", "The node closes the connection in the middle of the answer.", Fault{Op: OpChat, Mode: ModeCut}},
		{"model-context-length", "The prompt is too long for the model.", Fault{Op: OpChat, model: &modelError{http.StatusBadRequest,
			"This model's maximum context length is 8192 tokens.", "context_length_exceeded", "invalid_request_error", "messages"}}},
		{"model-content-filter", "The model's filter refuses the prompt.", Fault{Op: OpChat, model: &modelError{http.StatusBadRequest,
			"The prompt was filtered.", "content_filter", "invalid_request_error", "prompt"}}},
		{"model-rate-limit", "The model's rate limit is reached; Retry-After is 7 s.", Fault{Op: OpChat, Header: map[string]string{"Retry-After": "7"},
			model: &modelError{http.StatusTooManyRequests, "Rate limit reached for requests", "rate_limit_exceeded", "requests", ""}}},
		{"model-overloaded", "The model's backend is overloaded.", Fault{Op: OpChat, model: &modelError{http.StatusServiceUnavailable,
			"The engine is currently overloaded, please try again later", "", "server_error", ""}}},
		{"stream-bare-json", "A stream breaks off, and a JSON object that is no event follows.", Fault{Op: OpChat, Mode: ModeNoEnd,
			Body: `{"providerModelError":{"error":{"message":"The server had an error while processing your request","type":"server_error","param":null,"code":null}}}`}},
		{"stream-ends", "A stream ends without finish_reason and [DONE].", Fault{Op: OpChat, Mode: ModeNoEnd}},
		{"stream-half-line", "A stream ends within a line.", Fault{Op: OpChat, Mode: ModeHalfLine}},
		{"stream-silent", "A stream falls silent after its first event.", Fault{Op: OpChat, Mode: ModeSilence}},
		{"stream-lingers", "A stream stays open for 8 s after [DONE].", Fault{Op: OpChat, Mode: ModeLinger, Delay: 8 * time.Second}},
		{"empty-answer", "The answer is 200 without a body.", Fault{Op: OpChat, Mode: ModeEmpty}},
		{"error-stalls", "An error's body stops in its middle.", Fault{Op: OpChat, Mode: ModeStall, Body: `{"error":"provider request failed: failed to read"}`}},
		{"switching-protocols", "The node answers 101.", Fault{Op: OpChat, Status: http.StatusSwitchingProtocols}},
		{"redirect", "The node redirects to another host.", Fault{Op: OpChat, Status: http.StatusTemporaryRedirect,
			Header: map[string]string{"Location": "http://169.254.169.254/"}}},

		{"old-node", "The node is older than v7.6: it ignores omitProvider and hides the status of model errors.", Fault{Mode: ModeOldNode}},
		{"node-down", "The node closes every connection without an answer.", Fault{Mode: ModeDrop}},
		{"node-degraded", "The node's health check fails.", Fault{Op: OpHealth, Status: http.StatusServiceUnavailable, Body: `{"status":"degraded","version":"simulated"}`}},
		{"credentials-refused", "The node refuses the gateway's credentials.", Fault{Status: http.StatusUnauthorized, Text: "invalid username or password"}},
	}
}

// fromPreset returns the preset that the fault names, with the fault's own fields
// where [Fault] says that they are used. A fault without a name is returned as it is.
func (f Fault) fromPreset() Fault {
	if f.Name == "" {
		return f
	}
	p, ok := findPreset(f.Name)
	if !ok {
		panic("proxyroutertest: no preset is named " + f.Name)
	}
	named := p.fault
	named.Name, named.Provider, named.Model = f.Name, f.Provider, f.Model
	named.Times, named.Skip, named.Probability = f.Times, f.Skip, f.Probability
	if f.Delay != 0 {
		named.Delay = f.Delay
	}
	return named
}

func findPreset(name string) (Preset, bool) {
	for _, p := range Presets() {
		if p.Name == name {
			return p, true
		}
	}
	return Preset{}, false
}
