package cleanup

import "time"

// kind is one kind of rows that are removed once they are old.
type kind struct {
	name, table string
	at          string // the column of its age, with an index to go along
	where       string // what else must hold; implies the index's own condition
	audit       bool   // the table is append-only but for us, and nobody locks its rows
	keep        time.Duration
	// below every session that an open in doubt might be taken for
	sessions bool
}

// kinds are all kinds by age, in the order of the work.
func kinds(o Options) []kind {
	return []kind{
		{name: "settings deleted by their user", table: "user_automation_settings", at: "deleted_at",
			where: "deleted_at IS NOT NULL", keep: o.Retention},
		// What is closed was charged before, so the budget's day is safe.
		{name: "sessions that ended", table: "automation_sessions", at: "closed_at",
			where: "state IN ('closed', 'failed')", keep: o.Retention, sessions: true},
		{name: "audit of the flags", table: "feature_flag_events", at: "changed_at",
			where: "TRUE", keep: o.AuditRetention, audit: true},
		{name: "history of the rollouts", table: "automation_rollout_events", at: "at",
			where: "TRUE", keep: o.AuditRetention, audit: true},
		// Without an index: it has two rows for each replica's life and stage.
		// What the present epoch has counted decides about it.
		{name: "evidence of the rollouts", table: "automation_rollout_counts", at: "updated_at",
			where: "NOT EXISTS (SELECT 1 FROM automation_rollouts AS r WHERE r.name = automation_rollout_counts.rollout AND r.epoch = automation_rollout_counts.epoch)",
			keep:  o.AuditRetention},
		{name: "messages about the rollouts", table: "automation_rollout_outbox", at: "created_at",
			where: "TRUE", keep: o.AuditRetention},
	}
}

// untouched are the settings that say what the defaults say, see the package's
// comment. Only those that switch automation on are ever removed.
const (
	untouchedName  = "settings that equal the defaults, untouched and unused"
	untouchedTable = "user_automation_settings"
	// The live rows that switch automation on, in the order of an index.
	adopters = `user_automation_settings AS s WHERE s.is_enabled AND s.deleted_at IS NULL AND {text s.user_id} > $1`
	// $2 is the last user of the batch, $3 the retention, $4 the default duration.
	untouched = adopters + ` AND {text s.user_id} <= $2 AND s.updated_at < {in -$3} AND s.session_duration = $4
		AND NOT EXISTS (SELECT 1 FROM automation_sessions AS used WHERE used.user_id = {text s.user_id} AND used.user_id <> '' AND used.state <> 'failed')`
)

// removeUntouched is the statement that removes them.
func removeUntouched(lite bool) string {
	return remove(lite, untouchedTable, untouched+` {skip}`)
}

// remove is the statement that removes a batch and returns the rows' times, in
// a form that sorts: $1 is the age in seconds, $2 how many at most, $3 from
// when on.
func (k kind) remove(lite bool) string {
	skip, at := ` {skip}`, k.at
	if k.audit {
		skip = `` // to lock a row takes the right to change it
	}
	if !lite {
		at = `to_char(` + k.at + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'`
	}
	return remove(lite, k.table, k.table+` WHERE `+k.where+` AND `+k.at+` >= $3 AND `+k.at+` < {in -$1}
		ORDER BY `+k.at+` LIMIT $2`+skip) + ` RETURNING ` + at
}

// remove deletes rows by where they lie, so that PostgreSQL needs no other way
// to find them, whatever it thinks of the size of the table.
func remove(lite bool, table, which string) string {
	if lite {
		return `DELETE FROM ` + table + ` WHERE rowid IN (SELECT rowid FROM ` + which + `)`
	}
	return `DELETE FROM ` + table + ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM ` + which + `))`
}

// doubtQuery is how long ago the oldest open in doubt was asked for, in
// seconds. The second condition is an index's.
const doubtQuery = `SELECT coalesce(max(-{until called_at}), 0) FROM automation_sessions
	WHERE state IN ('opening', 'unknown', 'lost') AND state IN ('opening', 'unknown', 'open', 'ending', 'lost')`
