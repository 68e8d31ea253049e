// Package proxyrouter is a client of a Morpheus node, the proxy-router. It opens,
// reads and closes paid sessions for package session, lists models and bids, and
// forwards OpenAI-shaped requests to a session's provider.
//
//	node, err := proxyrouter.New(proxyrouter.Options{
//		URL:      "http://127.0.0.1:8082",
//		Username: "admin",
//		Password: os.Getenv("PROXY_ROUTER_PASSWORD"),
//	})
//	if err != nil {
//		return err
//	}
//	id, err := node.OpenSession(ctx, session.OpenRequest{ModelID: model, Duration: time.Hour})
//
// # Money
//
// An open is slow, paid and not idempotent, so it is sent at most once. It always
// dials a new connection: a kept-alive one may be dead already, and then nobody
// could tell whether the node saw the request. Only a failure before there was
// any connection is [session.ErrUnavailable]; whatever fails later, and is not a
// refusal the node put in words, is an unknown outcome and wraps no sentinel.
// [NodeError] holds the whole table.
//
// # A node that is away
//
// Calls that concern the chain pass a circuit breaker: after a few calls in a row
// without an answer, later ones fail at once with [session.ErrUnavailable] and say
// when the node is asked again. An answer, even a 500, counts as life; a caller
// that gives up counts as nothing. So the deadlines to set are those in [Options]:
// a caller's shorter one never trips the breaker. Chat is not behind it.
//
// # Secrets
//
// The credentials go into the Authorization header and nowhere else. What the node
// says is cut to a bounded length, and credentials, keys in URLs, e-mail addresses
// and the tails of 32-byte hex values are removed from it before it becomes part of
// an error or a log line.
package proxyrouter
