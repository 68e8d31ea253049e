package session_test

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
)

// isLongRun reports whether tests may run for minutes: AUTOMATION_TEST_LONG=1. By
// default they do the same for seconds.
func isLongRun() bool { return os.Getenv("AUTOMATION_TEST_LONG") == "1" }

// names returns prefix-0 to prefix-(n-1).
func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return list
}

func modelIDs(n int) []string {
	list := names("model", n)
	for i := range list {
		list[i] = proxyroutertest.ModelID(list[i])
	}
	return list
}

func TestAcquire_KeepsTheUsersLimitOverFiveReplicas(t *testing.T) {
	skipShort(t)
	t.Parallel()
	const requests = 40 // to each replica
	for _, limit := range []int{1, 4} {
		t.Run(fmt.Sprintf("limit %d", limit), func(t *testing.T) {
			t.Parallel()
			db, dsn := postgresWithDSN(t)
			n := proxyroutertest.NewServer(t, proxyroutertest.Options{OpenLatency: 200 * time.Millisecond})
			var replicas []*replica
			for range 5 {
				replicas = append(replicas, startReplica(t, replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL,
					Options: replicaOptions{MaxPerUser: limit}}))
			}
			for _, r := range replicas {
				r.Send(t, work{Users: []string{"alice"}, Requests: requests, Models: modelIDs(1)})
			}
			var slowest time.Duration
			for i, r := range replicas {
				rep := r.readReport(t)
				if rep.Served != requests {
					t.Errorf("replica %d served %d of %d requests, errors %v", i, rep.Served, requests, rep.Errors)
				}
				slowest = max(slowest, rep.Slowest)
			}
			for _, r := range replicas {
				r.stop(t)
			}
			audit(t, db, n, limit)
			if s := n.Stats(); s.Opens < 1 || s.Opens > limit || s.Chats != 5*requests {
				t.Errorf("%d opens and %d chats, want 1 to %d opens and %d chats", s.Opens, s.Chats, limit, 5*requests)
			}
			t.Logf("%d opens, slowest request %v", n.Stats().Opens, slowest.Round(time.Millisecond))
		})
	}
}

func TestManager_LeavesNothingBehindWhenReplicasAreKilledUnderLoad(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{OpenLatency: 20 * time.Millisecond, OpenLatencyMax: 200 * time.Millisecond, ChunkDelay: 10 * time.Millisecond})
	const perUser = 5
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: perUser, Lease: 5 * time.Second, ReconcileTimeout: 2 * time.Second}}
	load := work{Users: names("user", 100), Models: modelIDs(5), Forever: true}
	rounds, pause := 6, time.Second
	if isLongRun() {
		rounds, pause = 20, 3*time.Second
	}
	var replicas []*replica
	for range 3 {
		replicas = append(replicas, startReplica(t, config))
		replicas[len(replicas)-1].Send(t, load)
	}
	for range rounds {
		<-time.After(pause) // lets the load run
		replicas[0].Kill()
		r := startReplica(t, config)
		r.Send(t, load)
		replicas = append(replicas[1:], r)
	}
	var served int
	for _, r := range replicas {
		r.CloseInput()
		rep := r.readReport(t)
		served += rep.Served
		for _, e := range rep.Errors { // logged only: on a busy machine a request may lose its lease
			t.Log(e)
		}
		r.stop(t)
	}
	startManager(t, db, newClient(t, n), config.Options.session()) // reconciles what the killed replicas left
	audit(t, db, n, 2*perUser)                                     // an idle session of another model does not count, and stays open
	s := n.Stats()
	if s.Chats == 0 || served == 0 {
		t.Log("no chat ended before its replica was killed (a busy machine), so this run tested opens only")
	}
	t.Logf("%d kills, %d chats, %d opens", rounds, s.Chats, s.Opens)
}

// A replica is killed at a given point of each user's first request. The session
// that was perhaps opened is found, so that each user pays for exactly one.
func TestManager_LeavesNothingBehindWhenKilledAnywhereInAnOpen(t *testing.T) {
	skipShort(t)
	t.Parallel()
	db, dsn := postgresWithDSN(t)
	n := proxyroutertest.NewServer(t, proxyroutertest.Options{OpenLatency: 30 * time.Millisecond, OpenLatencyMax: 100 * time.Millisecond})
	config := replicaConfig{Driver: db.DriverName(), DSN: dsn, Node: n.URL, Options: replicaOptions{MaxPerUser: 1}}
	kills := 6
	if isLongRun() {
		kills = 40
	}
	var users []string
	var wg sync.WaitGroup
	slots := make(chan struct{}, 4)
	for _, point := range []string{"before-intent", "after-intent", "after-open", "before-complete"} {
		for _, user := range names(point, kills) {
			users = append(users, user)
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				c := config
				c.Failpoint, c.Options.Lease = point, 3*time.Second
				r := startReplica(t, c)
				r.Send(t, work{Users: []string{user}, Models: modelIDs(1)})
				r.waitKilled(t)
			})
		}
	}
	wg.Wait()
	r := startReplica(t, config)
	r.Send(t, work{Users: users, Models: modelIDs(1)})
	if rep := r.readReport(t); rep.Served != len(users) {
		t.Errorf("after the kills %d of %d users were served, errors %v", rep.Served, len(users), rep.Errors)
	}
	r.stop(t)
	startManager(t, db, newClient(t, n), config.Options.session()) // reconciles what the killed replicas left
	audit(t, db, n, 1)
	if s := n.Stats(); s.Opens != len(users) {
		t.Errorf("%d opens for %d users, want one each", s.Opens, len(users))
	}
}
