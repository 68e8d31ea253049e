// Package relay passes a node's answer on to a client, so that the client can
// distinguish a complete answer from a truncated one.
//
// [Relay.Send] waits for an answer and [Relay.Copy] passes a 2xx one on:
//
//	answers := relay.New()
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
// Server-sent events are passed on as they come, each as a whole. A session is
// busy until its node has been read to the end. Each node is therefore read in a
// goroutine of its own, which can outlive Copy: when the client has left, or has
// everything that it needs, the goroutine drains the rest within bounds and then
// releases the session. Close ends and joins these goroutines.
package relay
