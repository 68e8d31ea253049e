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
// request through unchanged if it is not a POST, if Identify finds no user, or if
// the user does not have automation on. For any other request it finds the model
// in the body, claims a paid session or opens one, sets the header session_id, and
// releases the session when the handler returns. The handler reads the body as the
// client sent it, and the answer is not buffered.
//
// A request that brings a session_id keeps it. A session that the module opened is
// claimed for its own user, whatever the flag says, and is 404 to others; with any
// other session the request passes through unchanged.
//
// [Module.Forward] is a handler that does all of it: it sends the request to the
// node and relays the answer. It answers 401 where Identify finds no user. Before
// the first byte of the answer it does what the cause of a failure allows: a
// session that is open on the chain is initiated again, which costs nothing; one
// that has ended on the chain is replaced; where the provider fails and the model
// has another, an open session of another provider serves, or else a paid one,
// within AUTOMATION_MAX_REPLACEMENTS_PER_HOUR. A request causes one paid session at
// most.
//
// # How requests end
//
// Each request ends with one [outcome.Outcome], whose cause decides the answer, the
// metric, the log line and the evidence for a rollout; package outcome
// names them. Errors of Sessions and Forward have OpenAI's shape, so that its SDKs show
// them; the other handlers answer with problem+json (RFC 9457). The cause's details
// go to the log alone.
//
// # When something is away
//
// Without the database no session is claimed: a request that needs one is answered
// 503 with a Retry-After, and so is one of which it is not known whether automation
// acts on it. Flags and settings are served as they were last read. [Module.Ready]
// names the component that fails.
package automation
