// Package openaisdk holds tests alone: the official OpenAI SDK for Go chats,
// streams and embeds through examples/server, which runs as a process of its
// own and is ended gently, and killed, on the way. No line of the SDK's knows
// of sessions.
package openaisdk
