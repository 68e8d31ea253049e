// Package automationtest is for the unit tests of gateways that mount package
// automation.
//
// A [Gateway] is a whole module that runs: on a database of its own, against a
// simulated node, with a clock to move.
//
//	g := automationtest.New(t, automationtest.Options{})
//	g.On("alice")
//	handler := g.Sessions(yourHandler)
//	...
//	g.Advance(time.Hour) // alice's session is over
//
// A [Mock] is for tests that use go-sqlmock: it expects what the module asks of
// the database, so that a test need not know the module's SQL.
//
//	db, mock := automationtest.NewMock(t)
//	mock.SettingsGet("alice").Returns(settings.Settings{IsEnabled: true, SessionDuration: time.Hour, Version: 1})
//
// A module that runs asks the database all the time, in an order that nobody
// knows; so a Mock is for the calls of a module that does not, and for stores.
// What takes a session wants a Gateway.
//
// The package brings the driver "sqlite" of modernc.org/sqlite into the test's
// binary. Import it from tests only.
package automationtest
