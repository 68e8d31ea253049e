package schema_test

import (
	"context"
	"fmt"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
)

// A gateway migrates when it starts. Any number of replicas may do so at once.
func ExampleMigrate() {
	ctx := context.Background()
	db, err := sqlx.Open("sqlite", ":memory:")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1) // each connection would have its own database in memory

	applied, err := schema.Migrate(ctx, db)
	fmt.Println("first:", applied[0].Name, err)
	applied, err = schema.Migrate(ctx, db)
	fmt.Println("again:", len(applied), err)
	// Output:
	// first: automation <nil>
	// again: 0 <nil>
}

func ExampleVerify() {
	ctx := context.Background()
	db, err := sqlx.Open("sqlite", ":memory:")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := schema.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}

	if _, err := db.ExecContext(ctx, `DROP INDEX automation_sessions_due`); err != nil {
		fmt.Println(err)
		return
	}
	problems, err := schema.Verify(ctx, db, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range problems {
		fmt.Println(p)
	}
	// Output:
	// index automation_sessions_due is missing
}
