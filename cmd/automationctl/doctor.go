package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/spf13/cobra"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/mapping"
)

// finding is the result of one check.
type finding struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

func (a *app) doctor() *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check everything that the feature needs", Args: cobra.NoArgs,
		Long: `Doctor checks the database (connection, TLS, role), the tables, the privileges
of the gateway's role, the flag, and the gateways that have reported in the last
minute with their versions and problems. If MODEL_MAPPINGS_FILE is set, it
checks the mapping file; if PROXY_ROUTER_URL is set, it checks the node with the
free GET /healthcheck. It changes nothing. The exit code is 1 if a check fails.`,
		Example: "  automationctl doctor --role gateway",
		RunE: a.withDB(func(cmd *cobra.Command, _ []string, db *sqlx.DB) error {
			list := a.diagnose(cmd.Context(), db, role)
			err := a.print(list, func(w io.Writer) {
				row(w, "CHECK", "OK", "DETAIL")
				for _, f := range list {
					row(w, f.Check, formatBool(f.OK), f.Detail)
				}
			})
			for _, f := range list {
				if !f.OK && err == nil {
					err = errFindings
				}
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&role, "role", "", "the gateway's role on PostgreSQL (default the connected role)")
	return cmd
}

// diagnose makes all checks. Without a connection it skips those that need the database.
func (a *app) diagnose(ctx context.Context, db *sqlx.DB, role string) []finding {
	list := []finding{checkConnection(ctx, db)}
	if list[0].OK {
		list = append(list, checkTables(ctx, db, role)...)
		list = append(list, checkFlag(ctx, db), checkReplicas(ctx, db))
	}
	if file := a.getenv("MODEL_MAPPINGS_FILE"); file != "" {
		list = append(list, checkMapping(file))
	}
	if url := a.getenv("PROXY_ROUTER_URL"); url != "" {
		list = append(list, checkNode(ctx, url))
	}
	return list
}

// failedFinding returns the finding of a check that failed with err.
func failedFinding(check string, err error) finding {
	detail := err.Error()
	if _, hint := classify(err); hint != "" {
		detail += "; " + hint
	}
	return finding{check, false, detail}
}

func checkConnection(ctx context.Context, db *sqlx.DB) finding {
	const check = "database"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if db.DriverName() == "sqlite" {
		if err := db.PingContext(ctx); err != nil {
			return failedFinding(check, err)
		}
		return finding{check, true, "SQLite, for one machine"}
	}
	var s struct {
		Version, Role, Database string
		TLS, Standby            bool
	}
	err := db.GetContext(ctx, &s, `SELECT current_setting('server_version') AS version, current_user AS role, current_database() AS database,
		coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls, pg_is_in_recovery() AS standby`)
	if err != nil {
		return failedFinding(check, err)
	}
	f := finding{check, !s.Standby, fmt.Sprintf("PostgreSQL %s, database %s, role %s, %s", s.Version, s.Database, s.Role,
		map[bool]string{true: "TLS", false: "no TLS"}[s.TLS])}
	if s.Standby {
		f.Detail += "; it is a read-only standby: point DATABASE_URL at the primary"
	}
	return f
}

// checkTables returns one finding for the tables and, on PostgreSQL, one for the role's
// privileges.
func checkTables(ctx context.Context, db *sqlx.DB, role string) []finding {
	problems, err := schema.Verify(ctx, db, role)
	if err != nil {
		return []finding{failedFinding("tables", err)}
	}
	tables, rights := finding{"tables", true, "as the migrations create them"}, finding{"rights", true, "sufficient"}
	var tableProblems, roleProblems []string
	for _, p := range problems {
		if strings.HasPrefix(p.Object, "role ") {
			roleProblems = append(roleProblems, p.String())
		} else {
			tableProblems = append(tableProblems, p.String())
		}
	}
	if len(tableProblems) > 0 {
		tables = finding{"tables", false, strings.Join(tableProblems, "; ") + "; run automationctl migrate up"}
	}
	if len(roleProblems) > 0 {
		rights = finding{"rights", false, strings.Join(roleProblems, "; ") + "; as the tables' owner run psql -f deploy/grants.sql"}
	}
	if db.DriverName() == "sqlite" {
		return []finding{tables}
	}
	return []finding{tables, rights}
}

func checkFlag(ctx context.Context, db *sqlx.DB) finding {
	f, err := flags.NewStore(db, flags.StoreOptions{}).Get(ctx, automationFlag)
	if err != nil {
		return failedFinding("flag", err)
	}
	detail := fmt.Sprintf("version %d, %v %%, %d users listed", f.Version, f.Percentage, f.EnabledUserIDs.Len())
	if !f.Enabled {
		detail = "switched off by " + f.UpdatedBy + "; " + detail
	}
	return finding{"flag", true, detail}
}

func checkReplicas(ctx context.Context, db *sqlx.DB) finding {
	list, err := replica.NewStore(db, nil).List(ctx)
	if err != nil {
		return failedFinding("gateways", err)
	}
	if len(list) == 0 {
		return finding{"gateways", false, "no gateway has reported in the last minute"}
	}
	allOK := true
	for _, r := range list {
		allOK = allOK && r.FeatureEnabled && len(r.Problems) == 0
	}
	return finding{"gateways", allOK, describeReplicas(list)}
}

func checkMapping(file string) finding {
	t, err := mapping.Load(file)
	if err != nil {
		return finding{"mapping", false, strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	return finding{"mapping", true, fmt.Sprintf("%s: %d models", file, len(t.Models()))}
}

// checkNode calls the node's health check, which is public and free.
func checkNode(ctx context.Context, url string) finding {
	p := sendProbe(ctx, "node", http.MethodGet, strings.TrimSuffix(url, "/")+"/healthcheck", "", "")
	if !p.OK {
		return finding{"node", false, strings.TrimSpace(fmt.Sprintf("%d %s", p.Status, p.Detail))}
	}
	return finding{"node", true, "responds"}
}
