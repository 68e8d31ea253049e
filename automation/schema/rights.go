package schema

import (
	"fmt"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// rights are the privileges that the service's role needs on PostgreSQL;
// deploy/grants.sql grants exactly these. The role deletes from the audit only in the
// clean-up, and never updates it.
var rights = []struct {
	table string
	needs []string
}{
	{"feature_flags", []string{"SELECT", "UPDATE"}},
	{"feature_flag_events", []string{"SELECT", "INSERT", "DELETE"}},
	{"user_automation_settings", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_sessions", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_feedback", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_wallet", []string{"SELECT", "UPDATE"}},
	{"automation_foreign_sessions", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_provider_failures", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_waiters", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_jobs", []string{"SELECT", "INSERT", "UPDATE"}},
	{"automation_rollouts", []string{"SELECT", "INSERT", "UPDATE"}},
	{"automation_rollout_events", []string{"SELECT", "INSERT", "DELETE"}},
	{"automation_rollout_counts", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_rollout_failures", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_rollout_minutes", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_rollout_receivers", []string{"SELECT", "INSERT", "UPDATE"}},
	{"automation_rollout_outbox", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_replicas", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_user_failures", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_activity", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
	{"automation_schema_migrations", []string{"SELECT"}},
	{"automation_adopted_tables", []string{"SELECT"}},
}

// verifyRights returns the privileges that the role lacks on the objects that exist.
func verifyRights(tx *sqldb.Tx, role string) ([]Problem, error) {
	var grantee struct {
		Name, Quoted, Schema string
		Uses                 bool
	}
	err := tx.Get(&grantee, `SELECT r.name, quote_ident(r.name) AS quoted, quote_ident(current_schema()) AS schema, has_schema_privilege(r.name, current_schema(), 'USAGE') AS uses
		FROM (SELECT coalesce(nullif($1, ''), current_user) AS name) r`, role)
	if err != nil {
		return nil, err
	}
	var list []Problem
	addMissing := func(right, object string) {
		list = append(list, Problem{"role " + grantee.Name, "lacks " + right + " on " + object, fmt.Sprintf("GRANT %s ON %s TO %s;", right, object, grantee.Quoted)})
	}
	if !grantee.Uses {
		addMissing("USAGE", "SCHEMA "+grantee.Schema)
	}
	for _, r := range rights {
		for _, need := range r.needs {
			var granted bool
			if err := tx.Get(&granted, `SELECT coalesce(has_table_privilege($1, to_regclass($2), $3), true)`, grantee.Name, r.table, need); err != nil {
				return nil, err
			}
			if !granted {
				addMissing(need, r.table)
			}
		}
		if !slices.Contains(r.needs, "INSERT") {
			continue
		}
		// An adopted table may have a serial column, whose sequence needs a privilege; an
		// identity column needs none.
		var sequences []string
		if err := tx.Select(&sequences, `SELECT CAST(CAST(s.oid AS regclass) AS text) FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' AND d.refobjid = to_regclass($2)
			WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(CAST($1 AS name), s.oid, 'USAGE') END ORDER BY 1`, grantee.Name, r.table); err != nil {
			return nil, err
		}
		for _, s := range sequences {
			addMissing("USAGE", "SEQUENCE "+s)
		}
	}
	var functions []string
	err = tx.Select(&functions, `SELECT CAST(CAST(p.oid AS regprocedure) AS text) FROM pg_proc p
		WHERE p.proname LIKE 'automation\_%' AND p.prokind = 'f' AND pg_function_is_visible(p.oid) AND NOT has_function_privilege(CAST($1 AS name), p.oid, 'EXECUTE') ORDER BY 1`, grantee.Name)
	for _, f := range functions {
		addMissing("EXECUTE", "FUNCTION "+f)
	}
	return list, err
}
