package automation

import (
	"context"
	"fmt"
	"time"

	"github.com/MorpheusAIs/gateway-automation/automation/internal/adminapi"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/fleet"
	"github.com/MorpheusAIs/gateway-automation/internal/report"
)

// report measures the deployment plan's criteria of success and reviews the period
// of length since that ends now. openBugs is the number of open P0 and P1 bugs, if
// the operator states it. Without Options.Users the adoption is not measured.
func (m *Module) report(ctx context.Context, openBugs *int, since time.Duration) (report.Report, error) {
	r, err := m.reports.Make(ctx, report.Options{Flag: FlagName, Users: m.users, OpenBugs: openBugs, Since: since,
		Retention: time.Duration(m.cfg.RetentionDays) * 24 * time.Hour})
	if err != nil {
		return r, fmt.Errorf("automation: %w", err)
	}
	return r, nil
}

// overview gathers the figures of the operators' first page.
func (m *Module) overview(ctx context.Context) (adminapi.Overview, error) {
	fail := func(err error) (adminapi.Overview, error) {
		return adminapi.Overview{}, fmt.Errorf("automation: overview: %w", err)
	}
	sessions, err := m.Stats(ctx)
	if err != nil {
		return fail(err)
	}
	replicas, err := m.replicas.List(ctx)
	if err != nil {
		return fail(err)
	}
	counts, err := m.fleet.Counts(ctx)
	if err != nil {
		return fail(err)
	}
	figures, err := m.fleet.Figures(ctx, FlagName)
	if err != nil {
		return fail(err)
	}
	rollouts, err := m.rollouts.List(ctx)
	if err != nil && rollouts == nil { // a rollout that cannot be read does not hide the others
		return fail(err)
	}
	components, chats := m.components(), fleet.SumChats(replicas)
	return adminapi.Overview{MasterOn: m.cfg.FeatureEnabled, Flag: adminapi.SummarizeFlag(m.flags.Flag(FlagName)), Components: components, Sessions: sessions.ByState,
		OptedIn: counts.OptedIn, OptedOut: counts.OptedOut, ActiveWeek: counts.ActiveWeek, CountedAt: counts.At,
		Chats: chats, Opens: figures.Opens, Replicas: replicas,
		Alerts: fleet.Alerts(fleet.Inputs{Now: m.now(), Replicas: replicas, Chats: chats, Figures: figures, Sessions: sessions, Rollouts: rollouts,
			BadFlags: len(m.flags.Health().Bad), StaleMapping: components["mapping"].Detail != ""})}, nil
}
