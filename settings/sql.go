package settings

// The macros in braces are those of sqldb's Expand. An adopted table keeps the
// host's column types: user_id may be a number, and columns may be NULL.

const columns = `coalesce(is_enabled, FALSE) AS is_enabled, coalesce(session_duration, 3600) AS session_duration, version, created_at, updated_at, deleted_at`

const get = `SELECT ` + columns + ` FROM user_automation_settings WHERE {text user_id} = $1`

// $2 and $3 are the new is_enabled and session_duration; NULL leaves the old value.
const (
	newEnabled  = `coalesce(CAST($2 AS boolean), s.is_enabled)`
	newDuration = `coalesce(CAST($3 AS integer), s.session_duration)`
	same        = `s.is_enabled = ` + newEnabled + ` AND s.session_duration = ` + newDuration
)

// In upsert, $4 and $5 are the values to insert if nothing is stored, and $6 is
// whether to change what is stored.
const upsert = `
INSERT INTO user_automation_settings AS s (user_id, is_enabled, session_duration, version, created_at, updated_at)
VALUES ($1, $4, $5, 1, {now}, {now})
ON CONFLICT (user_id) DO UPDATE SET
	is_enabled       = CASE WHEN s.deleted_at IS NULL THEN ` + newEnabled + ` ELSE excluded.is_enabled END,
	session_duration = CASE WHEN s.deleted_at IS NULL THEN ` + newDuration + ` ELSE excluded.session_duration END,
	version          = CASE WHEN s.deleted_at IS NULL AND ` + same + ` THEN s.version ELSE s.version + 1 END,
	created_at       = CASE WHEN s.deleted_at IS NULL THEN s.created_at ELSE excluded.created_at END,
	updated_at       = CASE WHEN s.deleted_at IS NULL AND ` + same + ` THEN s.updated_at ELSE excluded.updated_at END,
	deleted_at       = NULL
WHERE CAST($6 AS boolean) OR s.deleted_at IS NOT NULL
RETURNING ` + columns

// In update, $4 is the version that must be stored.
const update = `
UPDATE user_automation_settings AS s SET
	is_enabled       = ` + newEnabled + `,
	session_duration = ` + newDuration + `,
	version          = CASE WHEN ` + same + ` THEN s.version ELSE s.version + 1 END,
	updated_at       = CASE WHEN ` + same + ` THEN s.updated_at ELSE {now} END
WHERE {text user_id} = $1 AND version = $4 AND deleted_at IS NULL
RETURNING ` + columns

// In remove, $2 is whether any version may be stored, and $3 is the version that
// must be stored otherwise.
const remove = `
UPDATE user_automation_settings SET version = version + 1, updated_at = {now}, deleted_at = {now}
WHERE {text user_id} = $1 AND deleted_at IS NULL AND (CAST($2 AS boolean) OR version = $3)`

const isStored = `SELECT EXISTS (SELECT 1 FROM user_automation_settings WHERE {text user_id} = $1 AND deleted_at IS NULL)`

const optIns = `
SELECT count(CASE WHEN is_enabled THEN 1 END) AS "on", count(CASE WHEN is_enabled THEN NULL ELSE 1 END) AS off
FROM user_automation_settings WHERE deleted_at IS NULL`

// In changed, $1 is the start of the period in seconds relative to now, which is
// negative, and $2 is the limit.
const changed = `
SELECT {text user_id} AS user_id, version, updated_at FROM user_automation_settings WHERE updated_at > {in $1} AND user_id IS NOT NULL LIMIT $2`
