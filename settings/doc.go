// Package settings stores what each user chose for the automation feature:
// whether it is on for them, and how long their sessions last.
//
//	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
//	...
//	go store.Run(ctx)
//	mine, err := store.GetCached(ctx, userID)
//
// A [Store] works on the table user_automation_settings, which automation/schema
// creates or adopts. [Store.Get] reads the database. [Store.GetCached], for the
// path of requests, reads a cache in memory where it can.
//
// # Stored settings and defaults
//
// A user without stored settings has the [Defaults], with version 0 and no times.
// Reading stores nothing. Delete returns a user to the defaults. The row stays,
// marked as deleted, so that later versions continue from its version and an ETag
// never identifies two different settings. EraseUser, for a user who leaves,
// removes the row and with it the version.
//
// A written duration must be within the bounds of Defaults. A stored one may be
// outside: the host's rows may be older than the bounds, and bounds change. It is
// read as the nearest bound, because a session could not use another. The row
// stays as it is until the user writes a duration.
//
// # Writing
//
// Each write is one atomic statement: of several conditional writes on the same
// version exactly one succeeds, and the others get [ErrConflict]. A write that
// changes nothing leaves the version and the times as they are. Repeating any
// write does no harm. If the database's answer to an unconditional write or to a
// Delete is lost, the store repeats the write once before it returns
// [ErrOutcomeUnknown].
//
// # How old a result of GetCached can be
//
// Writes through the same Store are visible at once. Put, Patch and Delete of
// other replicas are visible within two seconds: every second, each store in use
// polls for changes, and while the database answers, an entry is used for longer
// than two seconds only if a poll of the last two seconds has confirmed it. A poll
// does not find EraseUser of another replica, an UPDATE by hand that does not set
// updated_at, or a statement that runs for more than the 5 s of the module's own.
// These are visible within 30 seconds, because no entry is used for longer.
//
// While the database is unavailable, GetCached returns what was read within the
// last ten minutes. Outdated settings cannot cost anything then, since claiming or
// opening a session needs the database. For other users it returns
// [ErrUnavailable], never the defaults. A call waits at most a second for the
// database. After a failed read, calls do not wait; every half second, one of them
// tries the database again.
//
// No error of this package names the user.
package settings
