// The official OpenAI SDK against examples/server: a module of its own, so that
// gateways that import the automation module do not get the SDK with it.
module github.com/MorpheusAIs/gateway-automation/examples/openai-sdk

go 1.26.0

require (
	github.com/MorpheusAIs/gateway-automation v0.0.0
	github.com/openai/openai-go/v3 v3.96.0
)

require (
	github.com/coder/websocket v1.8.15 // indirect
	github.com/tidwall/gjson v1.20.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.1 // indirect
	github.com/tidwall/sjson v1.2.5 // indirect
)

replace github.com/MorpheusAIs/gateway-automation => ../..
