// Package flags decides who has a feature: by a master switch, and by a row in
// the table feature_flags that holds lists of users and a percentage. A decision
// never waits for the database.
//
// The smallest program, on the host's *sqlx.DB with the tables that
// automation/schema creates:
//
//	watcher := flags.NewWatcher(flags.NewStore(db, flags.StoreOptions{}), flags.Options{})
//	go watcher.Run(ctx)
//	...
//	if watcher.Decide("automation", userID).On {
//
// or, around a handler,
//
//	mux.Handle("/beta/", flags.Middleware(watcher, "automation", userOf, nil)(handler))
//
// A [Watcher] keeps its [View] fresh. Code that only makes decisions needs the
// View alone.
//
// # The decision
//
// The first rule that applies decides:
//
//  1. The master switch of the process is off: off.
//  2. The flag does not exist, or was never read: off.
//  3. The flag is not enabled: off.
//  4. The user is in disabled_user_ids: off.
//  5. The user is in enabled_user_ids: on.
//  6. The user's bucket is below the percentage: on.
//  7. Otherwise: off.
//
// [Explain] shows each step.
//
// A user's bucket, see [Bucket], depends on the flag's seed, which is the flag's
// name unless the column seed holds another. So a higher percentage only adds
// users, flags with the same seed have the same cohort, flags with different
// seeds have independent cohorts, and a new seed selects new users.
//
// # Changing a flag
//
// Change the row by SQL or by [Store.Update]; an INSERT of a name creates a flag.
// The table's constraints reject malformed values, and its triggers increase the
// version and write the audit. Watchers see a change at their next poll, or
// sooner after [Watcher.Trigger].
//
// # Failures
//
// Without the database, decisions continue from the last good snapshot, and
// [View.Health] shows its age; with [Options.File] they do so after a restart as
// well. A malformed row, which can only be written by bypassing the constraints,
// affects only its own flag: the flag stays as it last was, or is off if it was
// never readable. A row with enabled = false switches its flag off even if its
// other columns are malformed.
package flags
