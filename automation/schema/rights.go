package schema

import (
	"fmt"
	"slices"

	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

// rights are what the service's role needs on PostgreSQL; deploy/grants.sql
// grants just these. The audit is append-only but for the clean-up.
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

// verifyRights returns what the role lacks, on the tables that there are.
func verifyRights(tx *sqldb.Tx, role string) ([]Problem, error) {
	var who struct {
		Name, Quoted, Schema string
		Uses                 bool
	}
	err := tx.Get(&who, `SELECT r.name, quote_ident(r.name) AS quoted, quote_ident(current_schema()) AS schema, has_schema_privilege(r.name, current_schema(), 'USAGE') AS uses
		FROM (SELECT coalesce(nullif($1, ''), current_user) AS name) r`, role)
	if err != nil {
		return nil, err
	}
	var list []Problem
	lacks := func(right, object string) {
		list = append(list, Problem{"role " + who.Name, "may not " + right + " " + object, fmt.Sprintf("GRANT %s ON %s TO %s;", right, object, who.Quoted)})
	}
	if !who.Uses {
		lacks("USAGE", "SCHEMA "+who.Schema)
	}
	for _, r := range rights {
		for _, need := range r.needs {
			var may bool
			if err := tx.Get(&may, `SELECT coalesce(has_table_privilege($1, to_regclass($2), $3), true)`, who.Name, r.table, need); err != nil {
				return nil, err
			}
			if !may {
				lacks(need, r.table)
			}
		}
		if !slices.Contains(r.needs, "INSERT") {
			continue
		}
		// A serial column, which an adopted table may have; an identity column
		// asks for no right.
		var sequences []string
		if err := tx.Select(&sequences, `SELECT CAST(CAST(s.oid AS regclass) AS text) FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' AND d.refobjid = to_regclass($2)
			WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(CAST($1 AS name), s.oid, 'USAGE') END ORDER BY 1`, who.Name, r.table); err != nil {
			return nil, err
		}
		for _, s := range sequences {
			lacks("USAGE", "SEQUENCE "+s)
		}
	}
	var functions []string
	err = tx.Select(&functions, `SELECT CAST(CAST(p.oid AS regprocedure) AS text) FROM pg_proc p
		WHERE p.proname LIKE 'automation\_%' AND p.prokind = 'f' AND pg_function_is_visible(p.oid) AND NOT has_function_privilege(CAST($1 AS name), p.oid, 'EXECUTE') ORDER BY 1`, who.Name)
	for _, f := range functions {
		lacks("EXECUTE", "FUNCTION "+f)
	}
	return list, err
}
