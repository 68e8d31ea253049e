// Package proxyroutertest is a simulated Morpheus node: a wallet, a chain of paid
// sessions, providers with bids, and models that answer in the OpenAI shape.
// It serves tests, crash tests with several processes, and trials without a network.
//
//	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
//	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL})
//	…
//	node.Inject(proxyroutertest.Fault{Op: proxyroutertest.OpOpen, Times: 1, After: true, Status: 500})
//	…
//	if s := node.Stats(); s.Overlaps > 0 { … }
//
// It behaves as the real one does where that matters: an open takes its time,
// goes on when its caller leaves, lasts a second less than was asked, and is
// refused below 300 s; transactions of the wallet that meet collide; a session
// serves one request at a time, and what breaks that rule is counted.
// [Stats] tells what was opened and paid, so that a test can hold it against its
// own books.
//
// A [Node] is an http.Handler and starts nothing. [Start] puts one on a TCP port.
package proxyroutertest
