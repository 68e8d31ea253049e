package session_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// The first request opens a session, the second one uses it again.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db := sqlx.MustOpen("sqlite", "file:"+filepath.Join(dir, "automation.db")+"?_txlock=immediate")
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := schema.Migrate(context.Background(), db); err != nil {
		panic(err)
	}
	node := &fakeNode{} // package proxyrouter has the real one
	m, err := session.New(db, node, session.Options{MaxPerUser: 4})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	running(ctx, m)

	for range 2 {
		claim, err := m.Acquire(ctx, session.Request{UserID: "7", ModelID: "0xmodel", Duration: time.Hour})
		if err != nil {
			panic(err)
		}
		fmt.Println("a request with", claim.SessionID())
		claim.Release()
	}
	stop()
	fmt.Println(<-done, node.opened())
	// Output:
	// a request with 0x1
	// a request with 0x1
	// <nil> 1
}
