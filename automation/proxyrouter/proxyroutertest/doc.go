// Package proxyroutertest is a simulated Morpheus node: a wallet, a chain of paid
// sessions, providers with bids, and models that answer in the OpenAI format.
// It serves tests, crash tests with several processes, and trials without a network.
//
//	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
//	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL})
//	…
//	node.Inject(proxyroutertest.Fault{Name: "open-lost-reply", Times: 1})
//	…
//	if s := node.Stats(); s.Overlaps > 0 { … }
//
// It has the real node's peculiarities. An open takes seconds, continues when its
// caller leaves, yields a session a second shorter than requested, and is refused
// below 300 s. Transactions of the wallet collide. A session serves one request at
// a time: a second one waits, even if the client of the first has left. A closed
// session still serves chats. A body that does not fit the node's struct is an
// error. Every other failure that was seen at real nodes is a fault with a name;
// [Presets] lists them.
//
// [Stats] counts what was opened and paid, for a test to compare with its own
// records.
//
// The model is an echo. It calls a tool if the request has any, follows a JSON
// schema, and honours n, stop and max_tokens.
//
// A [Node] is an http.Handler and starts nothing. [Start] serves one on a TCP port.
package proxyroutertest
