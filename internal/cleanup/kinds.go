package cleanup

import (
	"time"

	"github.com/MorpheusAIs/gateway-automation/internal/sessionsql"
)

// kind is one kind of rows that are deleted when they are old.
type kind struct {
	name, table string
	timeColumn  string // determines the row's age; an index begins with it
	where       string // a further condition, which implies that of a partial index
	appendOnly  bool   // the service's role must not update the rows, so it cannot lock them
	retention   time.Duration
	// keepsUncertain keeps every row that may belong to an open whose outcome
	// is still unknown.
	keepsUncertain bool
}

// kinds returns all kinds in the order of processing.
func kinds(o Options) []kind {
	return []kind{
		{name: "settings deleted by their user", table: "user_automation_settings", timeColumn: "deleted_at",
			where: "deleted_at IS NOT NULL", retention: o.Retention},
		// A session is charged before it is closed, so MinRetention keeps all sessions
		// that the budget of the last day counts.
		{name: "sessions that ended", table: "automation_sessions", timeColumn: "closed_at",
			where: sessionsql.Finished, retention: o.Retention, keepsUncertain: true},
		{name: "audit of the flags", table: "feature_flag_events", timeColumn: "changed_at",
			where: "TRUE", retention: o.AuditRetention, appendOnly: true},
		{name: "history of the rollouts", table: "automation_rollout_events", timeColumn: "at",
			where: "TRUE", retention: o.AuditRetention, appendOnly: true},
		// It needs no index: there are only two rows for each process and stage. The
		// current epoch's rows are kept as evidence of the running rollout.
		{name: "evidence of the rollouts", table: "automation_rollout_counts", timeColumn: "updated_at",
			where:     "NOT EXISTS (SELECT 1 FROM automation_rollouts AS r WHERE r.name = automation_rollout_counts.rollout AND r.epoch = automation_rollout_counts.epoch)",
			retention: o.AuditRetention},
		{name: "failing users of the rollouts", table: "automation_rollout_failures", timeColumn: "minute",
			where: "TRUE", retention: o.AuditRetention},
		{name: "evidence of the rollouts by minute", table: "automation_rollout_minutes", timeColumn: "minute",
			where: "TRUE", retention: o.AuditRetention},
		{name: "messages about the rollouts", table: "automation_rollout_outbox", timeColumn: "created_at",
			where: "TRUE", retention: o.AuditRetention},
		{name: "feedback marked as done", table: "automation_feedback", timeColumn: "created_at",
			where: "done_at IS NOT NULL", retention: o.Retention},
		{name: "feedback not marked as done", table: "automation_feedback", timeColumn: "created_at",
			where: "done_at IS NULL", retention: o.AuditRetention},
		// Sums of ten minutes, which reports use: about two thousand rows a day.
		{name: "counts of requests", table: "automation_activity", timeColumn: "period",
			where: "TRUE", retention: o.AuditRetention},
		{name: "failures of users", table: "automation_user_failures", timeColumn: "failed_at",
			where: "TRUE", retention: o.Retention},
		{name: "reports of stopped replicas", table: "automation_replicas", timeColumn: "seen_at",
			where: "TRUE", retention: MinRetention},
	}
}

// Settings that equal the defaults; see the package comment. Only settings that
// switch automation on are deleted.
const (
	unusedName  = "settings that equal the defaults, unchanged and unused"
	unusedTable = "user_automation_settings"
	// optedIn selects the settings that switch automation on, in the order of an index.
	optedIn = `user_automation_settings AS s WHERE s.is_enabled AND s.deleted_at IS NULL AND {text s.user_id} > $1`
	// $2 is the last user of the batch, $3 the retention, $4 the default duration.
	unused = optedIn + ` AND {text s.user_id} <= $2 AND s.updated_at < {in -$3} AND s.session_duration = $4
		AND NOT EXISTS (SELECT 1 FROM automation_sessions AS used WHERE used.user_id = {text s.user_id} AND used.user_id <> '' AND used.state <> '` + sessionsql.StateFailed + `')`
)

// deleteUnusedQuery deletes the unused settings of a batch of users.
func deleteUnusedQuery(sqlite bool) string {
	return deleteRows(sqlite, unusedTable, unused+` {skip}`)
}

// deleteQuery deletes a batch and returns the rows' times as text that sorts: $1
// is the minimum age in seconds, $2 the maximum number of rows, $3 the time to start from.
func (k kind) deleteQuery(sqlite bool) string {
	skip, at := ` {skip}`, k.timeColumn
	if k.appendOnly {
		skip = `` // locking a row needs the right to update it
	}
	if !sqlite {
		at = `to_char(` + k.timeColumn + ` AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'`
	}
	return deleteRows(sqlite, k.table, k.table+` WHERE `+k.where+` AND `+k.timeColumn+` >= $3 AND `+k.timeColumn+` < {in -$1}
		ORDER BY `+k.timeColumn+` LIMIT $2`+skip) + ` RETURNING ` + at
}

// deleteRows deletes the selected rows by physical row id, so that PostgreSQL's planner
// never scans the whole table, whatever its statistics say.
func deleteRows(sqlite bool, table, selection string) string {
	if sqlite {
		return `DELETE FROM ` + table + ` WHERE rowid IN (SELECT rowid FROM ` + selection + `)`
	}
	return `DELETE FROM ` + table + ` WHERE ctid = ANY (ARRAY(SELECT ctid FROM ` + selection + `))`
}

// uncertainOpenAge selects how many seconds ago the oldest open whose outcome is
// unknown was requested, or 0.
const uncertainOpenAge = `SELECT coalesce(max(-{until called_at}), 0) FROM automation_sessions
	WHERE state IN ('` + sessionsql.StateOpening + `', '` + sessionsql.StateUnknown + `', '` + sessionsql.StateLost + `')`
