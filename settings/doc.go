// Package settings keeps what each user chose for the automation feature:
// whether it is on for them, and how long their sessions last.
//
//	store, err := settings.NewStore(pool, settings.Defaults{})
//	...
//	cache := settings.NewCache(store, settings.CacheOptions{})
//	go cache.Run(ctx)
//	mine, err := cache.Get(ctx, userID)
//
// A [Store] works on the table user_automation_settings, which automation/schema
// creates or adopts. A [Cache] stands in front of it on the path of requests.
// Both offer the same calls.
//
// # What a user has
//
// A user with nothing stored has the [Defaults], with version 0 and no times;
// reading writes nothing. Delete takes a user back there. The row stays, marked
// as deleted, so that the versions of what is stored later go on from where they
// were and an ETag never comes back with another meaning. Forget, for a user
// who has gone, erases the row; nothing of it is left, the version included.
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
// # How old an answer of the cache can be
//
// Writes through a Cache show in it at once. Put, Patch and Delete of other
// replicas show within two seconds: each cache asks every second what has
// changed, and an entry that no such look within the last two seconds has
// confirmed is not used while the database answers. No entry is used for longer
// than 30 seconds after it was read, which bounds what leaves no trace to look
// for: Forget by another replica, and SQL typed by hand that does not set
// updated_at. While the database is away an entry that may be older than
// this is better than none, and is served; nothing can be spent on it, since
// claiming or opening a session needs the database.
//
// No error of this package names the user.
package settings
