// Package settings stores what each user chose for the automation feature:
// whether it is on for them, and how long their sessions last.
//
//	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
//	...
//	go store.Run(ctx)
//	mine, err := store.GetCached(ctx, userID)
//
// A [Store] works on the table user_automation_settings, which automation/schema
// creates or adopts. [Store.Get] reads the database; [Store.GetCached] answers
// from memory where it can, for the path of requests.
//
// # What a user has
//
// A user with nothing stored has the [Defaults], with version 0 and no times;
// reading writes nothing. Delete returns a user to them. The row stays, marked
// as deleted, so that the versions of what is stored later continue from there
// and an ETag never returns with another meaning. EraseUser, for a user who
// leaves, removes the row; nothing of it is left, the version included.
//
// What is written must lie within the bounds of Defaults. What is stored may
// not: the host's rows may be older than the bounds, and bounds change. Such a
// duration is read as the nearest bound, because a shorter or longer one would
// be refused or cut when it is used; the row stays as it is until the user
// writes a duration.
//
// # Writing
//
// Each write is one statement, which cannot race with another: of conditional
// writes on one version exactly one wins, the others get [ErrConflict]. A write
// that changes nothing leaves the version and the times as they are. Any write
// may be repeated without harm; unconditional ones that lost the database's
// answer are, once, before [ErrOutcomeUnknown] is returned.
//
// # How old an answer of GetCached can be
//
// Writes through a Store show in it at once. Put, Patch and Delete of other
// replicas show within two seconds: each store in use asks every second what has
// changed, and an entry that no such poll within the last two seconds has
// confirmed is not used while the database answers. No entry is used for longer
// than 30 seconds after it was read, which bounds what no poll can find:
// EraseUser by another replica, SQL typed by hand that does not set updated_at,
// and a statement that took longer than the server allows ours.
//
// While the database is away, what was read within the last ten minutes serves;
// nothing can be spent on it, since claiming or opening a session needs the
// database. What is not known is an [ErrUnavailable], never the defaults. A read
// waits for the database for a second at most, and after one that failed the
// others do not wait at all: one of them asks again every half second.
//
// No error of this package names the user.
package settings
