package settings_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// inMemory returns a migrated database in memory.
func inMemory(ctx context.Context) *sqlx.DB {
	pool, err := sqlx.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	pool.SetMaxOpenConns(1) // each connection would be a database of its own
	if _, err := schema.Migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}
	return pool
}

func Example() {
	ctx := context.Background()
	pool := inMemory(ctx)
	defer func() { _ = pool.Close() }()

	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		log.Fatal(err)
	}
	printResult := func(s settings.Settings, err error) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("version %d: on %t, sessions of %v\n", s.Version, s.IsEnabled, s.SessionDuration)
	}
	printResult(store.Get(ctx, "7"))
	printResult(store.Put(ctx, "7", settings.Values{IsEnabled: true, SessionDuration: 2 * time.Hour}, settings.Always))
	printResult(store.Patch(ctx, "7", settings.Change{SessionDuration: new(30 * time.Minute)}, settings.IfVersion(1)))
	printResult(store.Delete(ctx, "7", settings.Always))
	// Output:
	// version 0: on false, sessions of 1h0m0s
	// version 1: on true, sessions of 2h0m0s
	// version 2: on true, sessions of 30m0s
	// version 0: on false, sessions of 1h0m0s
}

func ExampleIfVersion() {
	ctx := context.Background()
	pool := inMemory(ctx)
	defer func() { _ = pool.Close() }()
	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		log.Fatal(err)
	}

	values := settings.Values{IsEnabled: true, SessionDuration: time.Hour}
	stored, err := store.Put(ctx, "7", values, settings.IfVersion(0)) // only if nothing is stored
	if err != nil {
		log.Fatal(err)
	}
	// The same user, in another window:
	if _, err := store.Patch(ctx, "7", settings.Change{IsEnabled: new(false)}, settings.Always); err != nil {
		log.Fatal(err)
	}
	values.SessionDuration = 2 * time.Hour
	_, err = store.Put(ctx, "7", values, settings.IfVersion(stored.Version))
	fmt.Println(errors.Is(err, settings.ErrConflict))
	// Output: true
}

func ExampleInvalidError() {
	ctx := context.Background()
	pool := inMemory(ctx)
	defer func() { _ = pool.Close() }()
	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
	if err != nil {
		log.Fatal(err)
	}

	_, err = store.Put(ctx, "7", settings.Values{SessionDuration: time.Minute}, settings.Always)
	if invalid, ok := errors.AsType[*settings.InvalidError](err); ok {
		fmt.Println(invalid.Field)
		fmt.Println(invalid.Reason)
	}
	// Output:
	// session_duration
	// must be whole seconds from 300 to 86400
}

func ExampleStore_GetCached() {
	ctx, stop := context.WithCancel(context.Background())
	pool := inMemory(ctx)
	defer func() { _ = pool.Close() }()
	store, err := settings.NewStore(pool, settings.Defaults{IsEnabled: true}, settings.StoreOptions{})
	if err != nil {
		log.Fatal(err)
	}

	done := make(chan struct{})
	go func() { store.Run(ctx); close(done) }()

	for range 3 { // together one query
		mine, err := store.GetCached(ctx, "7")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(mine.IsEnabled)
	}
	if _, err := store.Patch(ctx, "7", settings.Change{IsEnabled: new(false)}, settings.Always); err != nil {
		log.Fatal(err)
	}
	mine, err := store.GetCached(ctx, "7") // the change is visible at once
	fmt.Println(mine.IsEnabled, err)

	stop()
	<-done
	// Output:
	// true
	// true
	// true
	// false <nil>
}
