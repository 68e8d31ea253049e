package cleanup

import "time"

// kind is one kind of rows that are removed once they are old.
type kind struct {
	name, table string
	key         string // a column that tells rows apart
	at          string // the column of its age, with an index to go along
	where       string // what else must hold; implies the index's own condition
	audit       bool   // the table is append-only but for the clean-up
	keep        time.Duration
	// below every session that an open in doubt might be taken for
	sessions bool
}

// kinds are all kinds by age, in the order of the work.
func kinds(o Options) []kind {
	return []kind{
		{name: "settings deleted by their user", table: "user_automation_settings", key: "user_id", at: "deleted_at",
			where: "deleted_at IS NOT NULL", keep: o.Retention},
		// What is closed was charged before, so the budget's day is safe.
		{name: "sessions that ended", table: "automation_sessions", key: "id", at: "closed_at",
			where: "state IN ('closed', 'failed')", keep: o.Retention, sessions: true},
		{name: "audit of the flags", table: "feature_flag_events", key: "id", at: "changed_at",
			where: "TRUE", keep: o.AuditRetention, audit: true},
	}
}

// untouched are the settings that say what the defaults say, see the package's
// comment. Only those that switch automation on are ever removed.
const (
	untouchedName  = "settings that equal the defaults, untouched and unused"
	untouchedTable = "user_automation_settings"
	// The live rows that switch automation on, in the order of an index.
	adopters = `user_automation_settings AS s WHERE s.is_enabled AND s.deleted_at IS NULL AND s.user_id > $1`
	// $2 is the last user of the batch, $3 the retention, $4 the default duration.
	untouched = adopters + ` AND s.user_id <= $2 AND s.updated_at < {in -$3} AND s.session_duration = $4
		AND NOT EXISTS (SELECT 1 FROM automation_sessions AS used WHERE used.user_id = s.user_id AND used.user_id <> '' AND used.state <> 'failed')`
)

// removeUntouched is the statement that removes them.
func removeUntouched(lite bool) string {
	return `DELETE FROM ` + untouchedTable + ` WHERE user_id ` + among(lite, `SELECT s.user_id FROM `+untouched+` {skip}`)
}

// remove is the statement that removes a batch: $1 is the age in seconds, $2
// how many at most, $3 from when on.
func (k kind) remove(lite bool) string {
	skip := " {skip}"
	if k.audit {
		skip = "" // nobody changes these rows, and locking them takes the right to
	}
	return `DELETE FROM ` + k.table + ` WHERE ` + k.key + ` ` + among(lite, `SELECT `+k.key+` FROM `+k.table+` WHERE `+k.where+
		` AND `+k.at+` >= $3 AND `+k.at+` < {in -$1} ORDER BY `+k.at+` LIMIT $2`+skip) + ` RETURNING ` + k.at
}

// among is a condition that is looked up in an index, whatever PostgreSQL
// thinks about the size of the table.
func among(lite bool, query string) string {
	if lite {
		return `IN (` + query + `)`
	}
	return `= ANY (ARRAY(` + query + `))`
}

// doubtQuery is how long ago the oldest open in doubt was asked for, in
// seconds. The second condition is an index's.
const doubtQuery = `SELECT coalesce(max(-{until called_at}), 0) FROM automation_sessions
	WHERE state IN ('opening', 'unknown', 'lost') AND state IN ('opening', 'unknown', 'open', 'ending', 'lost')`
