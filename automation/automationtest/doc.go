// Package automationtest is for the unit tests of gateways that mount package
// automation.
//
// A [Gateway] is a running module with a database of its own, a simulated node,
// and a clock that the test moves.
//
//	g := automationtest.New(t, automationtest.Options{})
//	g.On("alice")
//	handler := g.Sessions(yourHandler)
//	...
//	g.Advance(time.Hour) // alice's session is over
//
// A [Mock] is for tests that use go-sqlmock: it expects the module's statements,
// so that a test need not know their SQL.
//
//	db, mock := automationtest.NewMock(t)
//	mock.SettingsGet("alice").Returns(settings.Settings{IsEnabled: true, SessionDuration: time.Hour, Version: 1})
//
// A running module queries the database in the background, in no fixed order. So
// use a Mock for stores and for the calls of a module that is not running, and a
// Gateway for everything that needs a session.
//
// The package brings the driver "sqlite" of modernc.org/sqlite into the test's
// binary. Import it from tests only.
package automationtest
