// Package automation is what a gateway imports to give its users paid sessions
// that they do not have to open themselves.
//
//	cfg, err := automation.LoadConfig()
//	...
//	m, err := automation.New(cfg, db, identify, automation.Options{Logger: logger})
//	...
//	if err := m.Load(ctx); err != nil { // optional: do not start without a mapping or tables
//		return err
//	}
//	go m.Run(ctx) // stop the server if it returns an error
//
//	mux.Handle("/api/v1/automation/", m.API())
//	mux.Handle("/api/v1/chat/completions", m.Sessions(yourHandler)) // or m.Forward()
//
// # What happens to a request
//
// [Module.Sessions] is a middleware for the host's own handler. It passes a
// request through unchanged if it is not a POST, if Identify finds no user, if the
// user does not have the feature, or if it names a session that the module did not
// open. For any other request it finds the model in the body, claims a paid session
// or opens one, sets the header session_id, and releases the session when the
// handler returns. The handler reads the body as the client sent it, and the answer
// is not buffered.
//
// [Module.Forward] is a handler that does all of it: it sends the request to the
// node and relays the answer. Before the first byte of the answer it remedies a
// failure once: it verifies an expired session and replaces it, or turns to another
// provider. It answers 401 where Identify finds no user.
//
// # Errors
//
// Errors of Sessions and Forward have OpenAI's shape, so that its SDKs show them;
// the other handlers answer with problem+json (RFC 9457). Package outcome has the
// causes and what follows from each. The cause's details go to the log alone.
//
// # When something is away
//
// Without the database no session is claimed: a request that needs one is
// answered 503, and a request that automation does not act on is not affected.
// Flags and settings are served as they were last read. [Module.Ready] names the
// component that fails.
package automation
