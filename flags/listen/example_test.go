package listen_test

import (
	"context"
	"fmt"

	"github.com/MorpheusAIs/gateway-automation/flags/listen"
)

// A gateway passes its DATABASE_URL and watcher.Trigger, and runs listen.Run next
// to watcher.Run.
func ExampleRun() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	trigger := func() { fmt.Println("changed") }
	fmt.Println(listen.Run(ctx, "postgres://user:secret@[::1:broken/gateway", trigger, listen.Options{}))
	cancel()
	fmt.Println(listen.Run(ctx, "postgres://user:secret@127.0.0.1/gateway", trigger, listen.Options{}))
	// Output:
	// listen: not a valid PostgreSQL DSN
	// <nil>
}
