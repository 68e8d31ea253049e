// Package proxyrouter is a client of a Morpheus node, the proxy-router. It opens,
// reads and closes paid sessions for package session, lists models and bids, and
// forwards requests in the OpenAI format to a session's provider.
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
// would know whether the node received the request. An open that fails before it
// has a connection wraps [session.ErrUnavailable]. Any later failure that is neither
// a known refusal nor a nonce conflict has an unknown outcome, and wraps none of
// package session's errors.
//
// # Errors
//
// An error's text consists of the operation, the node's status, and a message of
// the node or the transport, at most 300 bytes. An error wraps only what is certain:
//
//   - [session.ErrUnavailable]: no connection was made, or the breaker is open;
//   - [session.ErrUnauthorized]: 401 or 403, on an open with [session.ErrNotOpened];
//   - [session.ErrNotOpened]: an open answered with 400, 404 or 405, or with a 500
//     whose text comes from before the open's transaction;
//   - [session.ErrWalletCollision]: a 500 whose text is a nonce conflict;
//   - [session.ErrSessionNotFound]: a read that the node answered with that text;
//   - [context.Canceled], [context.DeadlineExceeded]: a call that one of them ended;
//   - [io.EOF], [io.ErrUnexpectedEOF], [syscall.ECONNRESET], [syscall.EPIPE]: a
//     connection that the node closed.
//
// # A node that is down
//
// Calls that concern the chain pass a circuit breaker: after three consecutive
// calls without a response, later ones fail at once with [session.ErrUnavailable]
// and an error that says when the next try is due. Any response, even a 500,
// counts as a success; a call that its caller cancelled does not count. So a
// caller's own shorter deadline never opens the breaker. A chat that gets no
// connection counts as a failure, too. But an open breaker stops no chat, because
// the chat's session is paid. [Client.Run] calls the node's health check while no
// other calls are made.
//
// # Sessions that fail
//
// [Client.Classify] says what an error is about: the request, the session, the
// provider, the model or the node. A chat's error does not prove that its session
// has ended: [Client.GetSession] reads the session from the chain. If it is still
// open, [Client.InitiateSession] repairs a node or a provider that has lost its
// storage, for free.
//
// # Secrets
//
// The credentials are sent in the Authorization header and nowhere else. The
// node's texts are truncated, and credentials, paths and queries of URLs, e-mail
// addresses and the tails of 32-byte hex values are removed from them, before
// they become part of an error or a log line.
package proxyrouter
