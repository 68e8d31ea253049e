package session_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/schema"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

// The first request opens a session and the second one uses it again. The node is
// simulated. With PostgreSQL instead of the SQLite file, many replicas can share
// the database.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	db := sqlx.MustOpen("sqlite", "file:"+filepath.Join(dir, "automation.db")+"?_txlock=immediate")
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if _, err := schema.Migrate(ctx, db); err != nil {
		log.Fatal(err)
	}
	server, err := proxyroutertest.Start(proxyroutertest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	node, err := proxyrouter.New(proxyrouter.Options{URL: server.URL})
	if err != nil {
		log.Fatal(err)
	}
	defer node.CloseIdleConnections()

	m, err := session.New(db, node, session.Options{MaxPerUser: 4, OpensPerHour: 10})
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	<-m.Started()

	var first string
	for range 2 {
		claim, err := m.Acquire(ctx, session.Request{UserID: "7", ModelID: proxyroutertest.ModelID("llama"), Duration: time.Hour})
		if err != nil {
			log.Fatal(err)
		}
		if first == "" {
			first = claim.SessionID()
		}
		fmt.Println("the session of the first request:", claim.SessionID() == first)
		claim.Release()
	}
	list, err := m.List(ctx, "7")
	fmt.Println(len(list), "open for", list[0].EndsAt.Sub(list[0].OpenedAt), err)
	stop()
	fmt.Println(<-done, "after", server.Stats().Opens, "open")
	// Output:
	// the session of the first request: true
	// the session of the first request: true
	// 1 open for 1h0m0s <nil>
	// <nil> after 1 open
}
