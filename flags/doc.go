// Package flags says who has a feature: a master switch, a row in the table
// feature_flags with lists of users and a percentage, and decisions that never
// wait for the database.
//
// The smallest program, on the host's *sqlx.DB with the tables that
// automation/schema makes:
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
// A [Watcher] keeps its [View] fresh; code that only decides gets the View.
//
// # The decision
//
// The first that fits: the master switch of the process is off (off); there is
// no such flag, or it was never read (off); the flag is not enabled (off); the
// user is in disabled_user_ids (off), is in enabled_user_ids (on), or has a
// bucket below the percentage (on). Otherwise off. [Explain] shows each step.
//
// A user's bucket, see [Bucket], depends on the flag's seed, which is its name
// unless the column seed says otherwise. So a higher percentage only adds
// users; flags with one seed share a cohort, others have nothing to do with
// each other; a new seed draws new users.
//
// # Changing a flag
//
// By hand, in SQL: the table's constraints refuse what is malformed, its
// triggers count the version and keep the audit. Or by [Store.Update]. A flag
// is made by an INSERT of its name. Watchers see either at their next poll, or
// sooner by [Watcher.Trigger].
//
// # When things break
//
// Without the database, decisions continue from the last good snapshot, and
// [View.Health] shows its age; with [Options.File] also after a restart. A
// malformed row, which can only be written past the constraints, harms only its
// own flag, and that stays as it was; if it was never good it is off. A row that
// says enabled = false is off whatever else is wrong with it.
package flags
