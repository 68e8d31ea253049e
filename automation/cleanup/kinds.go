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
