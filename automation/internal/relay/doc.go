// Package relay passes a node's answer on to a client, so that the client can
// tell a whole answer from half of one.
//
// [Relay.Send] waits for an answer and [Relay.Copy] passes a 2xx one on:
//
//	answers := relay.New(relay.Options{})
//	defer answers.Close()
//
//	ctx, cancel := context.WithCancelCause(lease) // not the client's context
//	send := func() (*http.Response, error) { return node.Forward(ctx, request) }
//	resp, err := answers.Send(r.Context(), relay.Attempt{Send: send, Cancel: cancel, Release: release})
//	...
//	result := answers.Copy(r.Context(), w, relay.Answer{Response: resp, Cancel: cancel, Release: release})
//	if result.Held {
//		// Nothing has reached the client: try again, or answer with an error.
//	}
//	if result.Abort {
//		panic(http.ErrAbortHandler)
//	}
//
// Server-sent events go out as they come, in whole events. The node is read in a
// goroutine of its own that outlives Copy where it must: a session is busy until
// its node has been read to the end, so when the client has left, or has all
// that it needs, the rest is drained within bounds and the session is released
// only then. Close ends and joins those goroutines.
package relay
