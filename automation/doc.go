// Package automation opens, reuses and closes paid sessions for the users of a
// gateway, so that they do not have to do it themselves.
//
//	cfg, err := automation.LoadConfig()
//	...
//	m, err := automation.New(cfg, db, identify, automation.Options{Logger: logger})
//	...
//	if err := m.Load(ctx); err != nil { // optional: fail the start without a mapping or tables
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
// request through unchanged if it is not a POST, if Identify finds no user, or if
// the user does not have automation on. For any other request it finds the model
// in the body, claims a paid session or opens one, sets the header session_id, and
// releases the session when the handler returns. The handler reads the body as the
// client sent it, and the answer is not buffered.
//
// A request that has a session_id keeps it. If the module opened that session, it
// is claimed for its own user, whatever the flag says, and other users get 404.
// With any other session the request passes through unchanged.
//
// [Module.Forward] is a handler that also sends the request to the node and relays
// the answer. It answers 401 if Identify finds no user. If the request fails before
// the first byte of the answer, Forward tries one remedy, which depends on the cause:
//
//   - The session is open on the chain: it is initiated again, which costs nothing.
//   - The session has ended on the chain: it is replaced.
//   - The provider fails and the model has another: the request uses an open session
//     of another provider, or a new paid one within
//     AUTOMATION_MAX_REPLACEMENTS_PER_HOUR.
//
// One request pays for at most one session.
//
// # How requests end
//
// Each request ends with one [outcome.Outcome], whose cause decides the answer, the
// metric, the log line and the evidence for a rollout; package outcome
// names the causes. Errors of Sessions and Forward have OpenAI's shape, so that its
// SDKs show them; the other handlers answer with problem+json (RFC 9457). Details of
// the cause are only logged.
//
// # When the database is unavailable
//
// Without the database no session can be claimed. A request that needs one is
// answered 503 with a Retry-After. So is a request if its user's settings are not
// cached, because automation may be on for that user. Flags and settings are served as
// they were last read. [Module.Ready] names the component that fails.
package automation
