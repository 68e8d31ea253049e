package cleanup

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
)

// kind is one kind of rows that are deleted once they are old.
type kind struct {
	name, table string
	timeColumn  string // the row's age; an index leads along it
	where       string // what else must hold; implies the index's own condition
	appendOnly  bool   // the service may not change the rows, so not lock them either
	retention   time.Duration
	// keepsUncertain keeps every row that may belong to an open whose outcome
	// is still unknown.
	keepsUncertain bool
}

// kinds lists all kinds in the order of the work.
func kinds(o Options) []kind {
	return []kind{
		{name: "settings deleted by their user", table: "user_automation_settings", timeColumn: "deleted_at",
			where: "deleted_at IS NOT NULL", retention: o.Retention},
		// A session is charged before it is closed, so the budget's day is kept.
		{name: "sessions that ended", table: "automation_sessions", timeColumn: "closed_at",
			where: sessionsql.Finished, retention: o.Retention, keepsUncertain: true},
		{name: "audit of the flags", table: "feature_flag_events", timeColumn: "changed_at",
			where: "TRUE", retention: o.AuditRetention, appendOnly: true},
		{name: "history of the rollouts", table: "automation_rollout_events", timeColumn: "at",
			where: "TRUE", retention: o.AuditRetention, appendOnly: true},
		// Without an index: there are two rows for each process and stage.
		// The current epoch's rows are evidence of the running rollout.
		{name: "evidence of the rollouts", table: "automation_rollout_counts", timeColumn: "updated_at",
			where:     "NOT EXISTS (SELECT 1 FROM automation_rollouts AS r WHERE r.name = automation_rollout_counts.rollout AND r.epoch = automation_rollout_counts.epoch)",
			retention: o.AuditRetention},
		{name: "failing users of the rollouts", table: "automation_rollout_failures", timeColumn: "minute",
			where: "TRUE", retention: o.AuditRetention},
		{name: "minutes of the rollouts", table: "automation_rollout_minutes", timeColumn: "minute",
			where: "TRUE", retention: o.AuditRetention},
		{name: "messages about the rollouts", table: "automation_rollout_outbox", timeColumn: "created_at",
			where: "TRUE", retention: o.AuditRetention},
		{name: "feedback that was done", table: "automation_feedback", timeColumn: "created_at",
			where: "done_at IS NOT NULL", retention: o.Retention},
		{name: "feedback that nobody did", table: "automation_feedback", timeColumn: "created_at",
			where: "done_at IS NULL", retention: o.AuditRetention},
		// Ten-minute sums, some two thousand rows a day, for reports.
		{name: "counts of requests", table: "automation_activity", timeColumn: "period",
			where: "TRUE", retention: o.AuditRetention},
		{name: "failures of users", table: "automation_user_failures", timeColumn: "failed_at",
			where: "TRUE", retention: o.Retention},
		{name: "reports of replicas that are gone", table: "automation_replicas", timeColumn: "seen_at",
			where: "TRUE", retention: MinRetention},
	}
}

// Settings that equal the defaults, see the package's comment. Only those that
// switch automation on are ever deleted.
const (
	unusedName  = "settings that equal the defaults, untouched and unused"
	unusedTable = "user_automation_settings"
	// optedIn reads along an index.
	optedIn = `user_automation_settings AS s WHERE s.is_enabled AND s.deleted_at IS NULL AND {text s.user_id} > $1`
	// $2 is the last user of the batch, $3 the retention, $4 the default duration.
	unused = optedIn + ` AND {text s.user_id} <= $2 AND s.updated_at < {in -$3} AND s.session_duration = $4
		AND NOT EXISTS (SELECT 1 FROM automation_sessions AS used WHERE used.user_id = {text s.user_id} AND used.user_id <> '' AND used.state <> '` + sessionsql.StateFailed + `')`
)

// deleteUnusedQuery deletes the unused settings of a batch of users.
func deleteUnusedQuery(lite bool) string {
	return deleteRows(lite, unusedTable, unused+` {skip}`)
}

// deleteQuery deletes a batch and returns the rows' times as text that sorts: $1
// is the least age in seconds, $2 the most rows, $3 the time to start from.
func (k kind) deleteQuery(lite bool) string {
	skip, at := ` {skip}`, k.timeColumn
	if k.appendOnly {
		skip = `` // to lock a row takes the right to change it
	}
	if !lite {
		at = `to_char(` + k.timeColumn + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'`
	}
	return deleteRows(lite, k.table, k.table+` WHERE `+k.where+` AND `+k.timeColumn+` >= $3 AND `+k.timeColumn+` < {in -$1}
		ORDER BY `+k.timeColumn+` LIMIT $2`+skip) + ` RETURNING ` + at
}

// deleteRows deletes by physical row id, so that PostgreSQL's planner cannot
// choose a scan of the table, whatever its statistics say.
func deleteRows(lite bool, table, which string) string {
	if lite {
		return `DELETE FROM ` + table + ` WHERE rowid IN (SELECT rowid FROM ` + which + `)`
	}
	return `DELETE FROM ` + table + ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM ` + which + `))`
}

// uncertainOpenAge returns how many seconds ago the oldest open whose outcome is
// unknown was requested.
const uncertainOpenAge = `SELECT coalesce(max(-{until called_at}), 0) FROM automation_sessions
	WHERE state IN ('` + sessionsql.StateOpening + `', '` + sessionsql.StateUnknown + `', '` + sessionsql.StateLost + `')`
