// Package automation is the face of the module: what a gateway imports to give
// its users paid sessions without their asking.
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
// [Module.Sessions] stands before the host's own handler. A request that is
// not a POST, that belongs to nobody, or whose user does not have the feature,
// goes on untouched. So does one that brings a session_id that is not ours.
// For any other the middleware finds the model in the body, claims a paid
// session or has one opened, puts it into the header session_id, and gives it
// back when the handler returns, however it returns. The body reaches the
// handler byte for byte, and the answer is not buffered.
//
// [Module.Forward] is the whole way instead: it sends the request to the node,
// renews a session that has expired, or turns to another provider where one
// fails: once, and only before the first byte of the answer. As no host's
// handler follows, it refuses what belongs to nobody.
//
// # Errors
//
// On the path of requests errors have OpenAI's shape, so that its SDKs show
// them; the API for settings answers with problem+json (RFC 9457). Neither
// shows a cause: that goes to the log.
//
// # When something is away
//
// Without the database nothing new is claimed: a request that needs a session
// is answered 503, and one that automation does not concern goes on as ever.
// The flags go on from their last good snapshot. [Module.Ready] says which
// part is missing.
package automation
