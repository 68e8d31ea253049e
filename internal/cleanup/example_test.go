package cleanup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
)

func ExampleCleaner_Pass() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	pool := sqlx.MustOpen("sqlite", "file:"+filepath.Join(dir, "a.db"))
	defer pool.Close()
	if _, err := schema.Migrate(context.Background(), pool); err != nil {
		panic(err)
	}
	pool.MustExec(`INSERT INTO user_automation_settings (user_id, is_enabled, session_duration, created_at, updated_at, deleted_at)
		VALUES ('1', TRUE, 3600, '2025-01-01', '2025-01-01', '2025-01-01'), ('2', FALSE, 3600, '2025-01-01', '2025-01-01', NULL)`)

	cleaner, err := cleanup.New(sqldb.New(pool, sqldb.Options{}), cleanup.Options{Retention: 7 * 24 * time.Hour})
	if err != nil {
		panic(err)
	}
	for _, dryRun := range []bool{true, false, false} {
		report, err := cleaner.Pass(context.Background(), dryRun)
		if err != nil {
			panic(err)
		}
		fmt.Println(report.DryRun, report.Total(), report.Removed[0].Kind)
	}
	// Output:
	// true 1 settings deleted by their user
	// false 1 settings deleted by their user
	// false 0 settings deleted by their user
}
