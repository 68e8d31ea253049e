package metrics

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/flags"
	"github.com/MorpheusAIs/gateway-automation/flags/rollout"
)

// The maximum numbers of flags and rollouts that have series of their own. Further
// flags share the label "other"; further rollouts are left out.
const (
	maxFlags    = 50
	maxRollouts = 20
)

// scrape has the metrics that are read from the module at each scrape.
type scrape struct {
	master, part *prometheus.Desc

	flagEnabled, flagShare, flagListed, flagVersion, decisions *prometheus.Desc
	flagsLoaded, flagsAge, flagsFailing, flagsMalformed        *prometheus.Desc

	models, modelsLoaded, modelsRefused, feedModels, feedCurrent, feedFailing *prometheus.Desc

	sessions, held, abandoned, due, overdue, unexplained, users, scrapeOK *prometheus.Desc

	poolConns, poolMax, poolWaits, poolWaited *prometheus.Desc

	rolloutState, rolloutStage, rolloutShare, rolloutWatched, rolloutHold, rolloutWaiting *prometheus.Desc
	rolloutOutcomes, rolloutFailures, rolloutLooked                                       *prometheus.Desc
}

func newScrape(constLabels prometheus.Labels) *scrape {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, constLabels)
	}
	return &scrape{
		master: desc("automation_feature_enabled", "1 while the process's master switch is on."),
		part:   desc("automation_part_ok", "1 while a component that automation needs works.", "part"),

		flagEnabled:    desc("automation_flag_enabled", "1 while the flag is enabled.", "flag"),
		flagShare:      desc("automation_flag_rollout_ratio", "The flag's rollout percentage, as a share of one.", "flag"),
		flagListed:     desc("automation_flag_listed_users", "Users in the flag's lists.", "flag", "list"),
		flagVersion:    desc("automation_flag_version", "The version of the flag's row, which grows with every change.", "flag"),
		decisions:      desc("automation_flag_decisions_total", "Decisions about users, by flag and reason.", "flag", "reason"),
		flagsLoaded:    desc("automation_flags_loaded", "1 once the flags have been read."),
		flagsAge:       desc("automation_flags_snapshot_age_seconds", "Age of the snapshot of the flags that decides."),
		flagsFailing:   desc("automation_flags_read_failing", "1 while the flags cannot be read."),
		flagsMalformed: desc("automation_flags_malformed_rows", "Rows of flags that cannot be read."),

		models:        desc("automation_mapping_names", "Model names that requests can use."),
		modelsLoaded:  desc("automation_mapping_loaded_timestamp_seconds", "Time when the current content of the mapping file was loaded."),
		modelsRefused: desc("automation_mapping_refused", "1 while the newest content of the mapping file is refused."),
		feedModels:    desc("automation_mapping_feed_models", "Live models in the last valid answer of the feed."),
		feedCurrent:   desc("automation_mapping_feed_timestamp_seconds", "Time when the last valid answer of the feed was last confirmed; absent without a feed."),
		feedFailing:   desc("automation_mapping_feed_failing", "1 while the feed cannot be read."),

		sessions:    desc("automation_sessions", "Sessions of all replicas that have not ended, by state.", "state"),
		held:        desc("automation_sessions_held", "Sessions under a lease, in all replicas: in use, lingering or being worked on."),
		abandoned:   desc("automation_sessions_abandoned", "Sessions whose lease lapsed and that no replica has taken over yet."),
		due:         desc("automation_sessions_due", "Sessions that are due for maintenance."),
		overdue:     desc("automation_sessions_overdue_seconds", "Time since the longest-waiting due session became due."),
		unexplained: desc("automation_sessions_unexplained", "Open sessions of the wallet without a row in the database, at the last comparison."),
		users:       desc("automation_users", "Users with stored settings, by whether automation is on.", "automation"),
		scrapeOK:    desc("automation_scrape_ok", "1 while the database answers the queries of scrapes."),

		poolConns:  desc("automation_db_pool_connections", "Connections of the host's pool.", "state"),
		poolMax:    desc("automation_db_pool_max_connections", "Maximum of open connections of the host's pool; 0 is no limit."),
		poolWaits:  desc("automation_db_pool_waits_total", "Waits for a connection of the host's pool."),
		poolWaited: desc("automation_db_pool_wait_seconds_total", "Time spent waiting for a connection of the host's pool."),

		rolloutState:    desc("automation_rollout_state", "1 for the state that a rollout is in.", "rollout", "state"),
		rolloutStage:    desc("automation_rollout_stage", "The stage of a rollout; 0 is the first.", "rollout"),
		rolloutShare:    desc("automation_rollout_stage_ratio", "The stage's percentage, as a share of one.", "rollout"),
		rolloutWatched:  desc("automation_rollout_watched_seconds", "Time for which the stage has been watched.", "rollout"),
		rolloutHold:     desc("automation_rollout_hold_seconds", "Time for which the stage has to be watched.", "rollout"),
		rolloutWaiting:  desc("automation_rollout_waiting", "1 for the condition that the stage waits for.", "rollout", "reason"),
		rolloutOutcomes: desc("automation_rollout_outcomes", "Requests in the stage's evidence, by arm.", "rollout", "arm"),
		rolloutFailures: desc("automation_rollout_failures", "Failed requests in the stage's evidence, by arm.", "rollout", "arm"),
		rolloutLooked:   desc("automation_rollout_looked_timestamp_seconds", "Time when a replica last evaluated the rollout.", "rollout"),
	}
}

func (s *scrape) descs() []*prometheus.Desc {
	return []*prometheus.Desc{s.master, s.part, s.flagEnabled, s.flagShare, s.flagListed, s.flagVersion, s.decisions,
		s.flagsLoaded, s.flagsAge, s.flagsFailing, s.flagsMalformed,
		s.models, s.modelsLoaded, s.modelsRefused, s.feedModels, s.feedCurrent, s.feedFailing,
		s.sessions, s.held, s.abandoned, s.due, s.overdue, s.unexplained, s.users, s.scrapeOK, s.poolConns, s.poolMax, s.poolWaits, s.poolWaited,
		s.rolloutState, s.rolloutStage, s.rolloutShare, s.rolloutWatched, s.rolloutHold, s.rolloutWaiting,
		s.rolloutOutcomes, s.rolloutFailures, s.rolloutLooked}
}

// metricSink receives metrics.
type metricSink chan<- prometheus.Metric

func (ch metricSink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (ch metricSink) counter(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func boolToFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (s *scrape) collect(a *source, ch metricSink) {
	now := a.Snapshot()
	ch.gauge(s.master, boolToFloat(now.MasterOn))
	for name, p := range now.Components {
		ch.gauge(s.part, boolToFloat(p.OK), name)
	}
	s.collectFlags(a, ch)
	s.collectMapping(now, ch)
	s.collectPool(now, ch)
	s.collectStats(a, ch)
}

func (s *scrape) collectFlags(a *source, ch metricSink) {
	w := a.Flags()
	h := w.Health()
	ch.gauge(s.flagsLoaded, boolToFloat(h.Loaded))
	if h.Loaded {
		ch.gauge(s.flagsAge, h.Age.Seconds())
	}
	ch.gauge(s.flagsFailing, boolToFloat(h.Err != nil))
	ch.gauge(s.flagsMalformed, float64(len(h.Bad)))

	names := []string{automation.FlagName}
	type decision struct{ flag, reason string }
	counts := map[decision]uint64{}
	for _, e := range w.DecisionCounts() { // in the order of the names
		switch {
		case e.Flag == "" || slices.Contains(names, e.Flag):
		case len(names) < maxFlags:
			names = append(names, e.Flag)
		default:
			e.Flag = "other"
		}
		counts[decision{e.Flag, e.Reason.String()}] += e.Count
	}
	for d, n := range counts {
		ch.counter(s.decisions, float64(n), d.flag, d.reason)
	}
	for _, name := range names {
		f := w.Flag(name)
		if f == nil {
			continue
		}
		ch.gauge(s.flagEnabled, boolToFloat(f.Enabled), name)
		ch.gauge(s.flagShare, float64(f.Percentage)/float64(100*flags.Percent), name)
		ch.gauge(s.flagListed, float64(f.EnabledUserIDs.Len()), name, "enabled")
		ch.gauge(s.flagListed, float64(f.DisabledUserIDs.Len()), name, "disabled")
		ch.gauge(s.flagVersion, float64(f.Version), name)
	}
}

func (s *scrape) collectMapping(now automation.Snapshot, ch metricSink) {
	h := now.Mapping
	ch.gauge(s.models, float64(h.Entries))
	if !h.LoadedAt.IsZero() {
		ch.gauge(s.modelsLoaded, unix(h.LoadedAt))
	}
	ch.gauge(s.modelsRefused, boolToFloat(h.Err != nil))
	ch.gauge(s.feedModels, float64(h.FeedModels))
	if !h.FeedAt.IsZero() {
		ch.gauge(s.feedCurrent, unix(h.FeedAt))
	}
	ch.gauge(s.feedFailing, boolToFloat(h.FeedErr != nil))
}

func (s *scrape) collectPool(now automation.Snapshot, ch metricSink) {
	ch.gauge(s.poolConns, float64(now.Pool.InUse), "in_use")
	ch.gauge(s.poolConns, float64(now.Pool.Idle), "idle")
	ch.gauge(s.poolMax, float64(now.Pool.MaxOpenConnections))
	ch.counter(s.poolWaits, float64(now.Pool.WaitCount))
	ch.counter(s.poolWaited, now.Pool.WaitDuration.Seconds())
}

// collectStats exports what the database answers. A metric that cannot be read is
// omitted, rather than exported with an old value or zero.
func (s *scrape) collectStats(a *source, ch metricSink) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeDeadline)
	defer cancel()
	sessions, err := a.stats.get(ctx)
	if err == nil {
		for state, n := range sessions.ByState {
			ch.gauge(s.sessions, float64(n), state)
		}
		ch.gauge(s.held, float64(sessions.Held))
		ch.gauge(s.abandoned, float64(sessions.Abandoned))
		ch.gauge(s.due, float64(sessions.Due))
		ch.gauge(s.overdue, sessions.Overdue.Seconds())
		ch.gauge(s.unexplained, float64(sessions.Unexplained))
	}
	users, err2 := a.users.get(ctx)
	if err2 == nil {
		ch.gauge(s.users, float64(users.on), "on")
		ch.gauge(s.users, float64(users.off), "off")
	}
	rollouts, err3 := a.rollouts.get(ctx)
	s.collectRollouts(rollouts, ch) // also those that were read before an error
	ch.gauge(s.scrapeOK, boolToFloat(err == nil && err2 == nil && err3 == nil))
}

// Every state that a rollout can be in, and everything a stage can wait for.
var (
	rolloutStates = []string{"pending", "running", "paused", "completed", "rolled_back", "aborted"}
	rolloutWaits  = []string{"time", "samples", "approval", "outage", "users", "breach"}
)

func (s *scrape) collectRollouts(list []rollout.Status, ch metricSink) {
	for _, r := range list[:min(len(list), maxRollouts)] {
		for _, state := range rolloutStates {
			ch.gauge(s.rolloutState, boolToFloat(r.State == state), r.Name, state)
		}
		for _, reason := range rolloutWaits {
			ch.gauge(s.rolloutWaiting, boolToFloat(r.Waiting == reason), r.Name, reason)
		}
		ch.gauge(s.rolloutStage, float64(r.Stage), r.Name)
		ch.gauge(s.rolloutShare, float64(r.Percentage)/float64(100*flags.Percent), r.Name)
		ch.gauge(s.rolloutWatched, r.Watched.Seconds(), r.Name)
		ch.gauge(s.rolloutHold, r.Hold.Seconds(), r.Name)
		if !r.LookedAt.IsZero() {
			ch.gauge(s.rolloutLooked, unix(r.LookedAt), r.Name)
		}
		ch.gauge(s.rolloutOutcomes, float64(r.ExposedOutcomes), r.Name, "exposed")
		ch.gauge(s.rolloutFailures, float64(r.ExposedFailures), r.Name, "exposed")
		ch.gauge(s.rolloutOutcomes, float64(r.ControlOutcomes), r.Name, "control")
		ch.gauge(s.rolloutFailures, float64(r.ControlFailures), r.Name, "control")
	}
}
