package schema_test

import (
	"context"
	"testing"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter"
	"github.com/MorpheusAIs/gateway-automation/automation/proxyrouter/proxyroutertest"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/internal/flagsql"
	"github.com/MorpheusAIs/gateway-automation/internal/replica"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
	"github.com/MorpheusAIs/gateway-automation/internal/rollout"
	"github.com/MorpheusAIs/gateway-automation/internal/sqldb"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// The test uses every part of the module with a role that has only the privileges of
// deploy/grants.sql.
func TestGrants_SufficeForTheService(t *testing.T) {
	t.Parallel()
	owner, pool := serviceRole(t)
	execute(t, owner, `INSERT INTO feature_flag_events (feature_name, version, action, changed_at, changed_by, before, after)
		VALUES ('automation', 1, 'update', now() - interval '2 years', 't', '{}', '{}')`)
	db := sqldb.New(pool, sqldb.Options{})
	check := func(operation string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", operation, err)
		}
	}

	store, err := settings.NewStore(pool, settings.Defaults{}, settings.StoreOptions{})
	check("settings", err)
	_, err = store.Put(t.Context(), "7", settings.Values{IsEnabled: true, SessionDuration: time.Hour}, settings.Always)
	check("put", err)
	_, err = store.Delete(t.Context(), "7", settings.Always)
	check("delete", err)
	_, _, err = store.OptInCounts(t.Context())
	check("opt-in counts", err)
	check("erase", store.EraseUser(t.Context(), "7"))

	_, err = flags.NewStore(pool, flags.StoreOptions{}).Update(t.Context(), "automation", flags.Change{Percentage: new(10 * flags.Percent)}, "t", 0)
	check("flags", err)
	_, err = flagsql.NewAudit(pool, sqldb.Options{}).Events(t.Context(), "automation", 10, 0)
	check("events", err)

	node := proxyroutertest.NewServer(t, proxyroutertest.Options{})
	client, err := proxyrouter.New(proxyrouter.Options{URL: node.URL})
	check("node", err)
	defer client.CloseIdleConnections()
	m, err := session.New(pool, client, session.Options{MaxPerUser: 2, OpensPerHour: 5, MaxOpen: 10})
	check("manager", err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	waitFor(t, func() (string, bool) {
		claim, err := m.Acquire(t.Context(), session.Request{UserID: "7", ModelID: proxyroutertest.ModelID("llama"), Duration: time.Hour})
		if err != nil {
			return err.Error(), false
		}
		claim.Release()
		_, err = m.End(t.Context(), "7", session.ID(claim.SessionID()))
		check("end", err)
		return "", true
	})
	check("maintain", m.Maintain(t.Context()))
	check("erase user", m.EraseUser(t.Context(), "7"))
	cancel()
	check("run", <-done)

	rollouts, err := rollout.New(pool, rollout.Options{Webhooks: []rollout.Webhook{{Name: "w", URL: "http://127.0.0.1:1", Secret: "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"}}})
	check("rollouts", err)
	_, err = rollouts.Store().Create(t.Context(), "automation", rollout.DefaultPlan(), "t")
	check("create", err)
	rollouts.Recorder("automation").Record(rollout.Sample{Arm: rollout.ArmExposed, Outcome: rollout.OutcomeSuccess, UserID: "7", Latency: time.Second, DatabaseTime: time.Millisecond})
	check("tick", rollouts.Tick(t.Context()))
	for _, action := range []rollout.Action{rollout.ActionStart, rollout.ActionSkip, rollout.ActionAbort} {
		_, err = rollouts.Store().Execute(t.Context(), "automation", rollout.Command{Action: action, Actor: "t"})
		check(string(action), err)
		check("tick", rollouts.Tick(t.Context()))
	}
	_, err = report.New(pool, rollouts.Store(), sqldb.Options{}).Make(t.Context(), report.Options{Flag: "automation", Users: func(context.Context) (int, error) { return 1, nil }})
	check("report", err)
	check("replica", replica.NewStore(pool, nil).Report(t.Context(), replica.Report{ID: "a", Number: 1, Activity: []replica.Activity{{Kind: "chat", Cause: "none", Evidence: "success", Requests: 1}}}))

	execute(t, owner, `UPDATE automation_sessions SET state = 'closed', closed_at = now() - interval '1 year'`)
	cleaner, err := cleanup.New(db, cleanup.Options{DefaultOptIn: true, Pause: time.Millisecond})
	check("cleaner", err)
	r, err := cleaner.Pass(t.Context(), false)
	check("clean-up", err)
	if r.Total() != 2 {
		t.Errorf("the clean-up removed %+v, want one session and one event", r)
	}
	migrate(t, pool)
}
