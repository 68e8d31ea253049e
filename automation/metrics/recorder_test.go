package metrics_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/MorpheusAIs/gateway-automation/automation/metrics"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
)

func TestRecorder_CountsEvents(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	f := gather(t, newObserved(metrics.Options{Now: func() time.Time { return at }}))
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"automation_db_queries_total", []string{"query", "sessions.claim", "result", "ok"}, 1},
		{"automation_db_queries_total", []string{"query", "settings.put", "result", "unavailable"}, 1},
		{"automation_db_queries_total", []string{"query", "settings.put", "result", "unknown"}, 1},
		{"automation_db_queries_total", []string{"query", "settings.put", "result", "refused"}, 1},
		{"automation_db_query_duration_seconds", []string{"query", "settings.put"}, 3},
		{"automation_db_slot_wait_seconds", nil, 4},
		{"automation_api_requests_total", []string{"route", "GET /api/v1/automation/settings", "code", "200"}, 1},
		{"automation_api_requests_total", []string{"route", "other", "code", "404"}, 1},
		{"automation_api_request_duration_seconds", []string{"route", "GET /api/v1/automation/settings"}, 2},
		{"automation_auth_failures_total", []string{"path", "api"}, 1},
		{"automation_auth_failures_total", []string{"path", "chat"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "served"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "opted_out"}, 1},
		{"automation_chat_requests_total", []string{"outcome", "untouched", "reason", "not_in"}, 0},
		{"automation_chat_overhead_seconds", []string{"outcome", "served"}, 1},
		{"automation_settings_changes_total", []string{"change", "opt_out"}, 1},
		{"automation_settings_changes_total", []string{"change", "opt_in"}, 0},
		{"automation_session_acquire_duration_seconds", []string{"result", "idle"}, 1},
		{"automation_session_opens_total", []string{"cause", "request", "result", "opened"}, 1},
		{"automation_session_opens_total", []string{"cause", "renewal", "result", "refused"}, 1},
		{"automation_session_opens_total", []string{"cause", "prewarm", "result", "unknown"}, 0},
		{"automation_session_open_duration_seconds", []string{"result", "refused"}, 1},
		{"automation_session_lifetime_seconds", nil, 1},
		{"automation_session_wallet_collisions_total", nil, 1},
		{"automation_session_takeovers_total", nil, 1},
		{"automation_session_orphans_adopted_total", nil, 1},
		{"automation_session_doubts_given_up_total", []string{"result", "lost"}, 1},
		{"automation_session_leases_lost_total", nil, 1},
		{"automation_session_retired_total", []string{"reason", "expired"}, 1},
		{"automation_session_opens_total", []string{"cause", "request", "result", "not_needed"}, 1},
		{"automation_session_opens_total", []string{"cause", "renewal", "result", "not_needed"}, 0},
		{"automation_session_replacements_total", []string{"result", "opened"}, 1},
		{"automation_session_replacements_total", []string{"result", "provider"}, 0},
		{"automation_session_mismatches_total", []string{"kind", "length"}, 1},
		{"automation_session_mismatches_total", []string{"kind", "model"}, 0},
		{"automation_session_cooldowns_total", nil, 1},
		{"automation_session_closes_total", []string{"result", "closed"}, 1},
		{"automation_session_maintenance_rounds_total", []string{"work", "closes", "result", "failed"}, 1},
		{"automation_session_maintenance_last_success_timestamp_seconds", []string{"work", "opens"}, 1_700_000_000},
		{"automation_cleanup_passes_total", []string{"result", "busy"}, 1},
		{"automation_cleanup_passes_total", []string{"result", "failed"}, 1},
		{"automation_cleanup_passes_total", []string{"result", "ok"}, 1},
		{"automation_cleanup_rows_removed_total", []string{"table", "automation_sessions"}, 40},
		{"automation_cleanup_last_success_timestamp_seconds", nil, 1_700_000_000},
		{"automation_cleanup_duration_seconds", nil, 1},
	} {
		if got := value(t, f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
}

func TestRecorder_ReadsStateOnScrape(t *testing.T) {
	r := metrics.New(metrics.Options{})
	r.Attach(newModule(t, 2))
	f := gather(t, r)
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"automation_feature_enabled", nil, 1},
		{"automation_part_ok", []string{"part", "node"}, 1},
		{"automation_part_ok", []string{"part", "database"}, 0},
		{"automation_flag_enabled", []string{"flag", "automation"}, 1},
		{"automation_flag_rollout_ratio", []string{"flag", "automation"}, 0.125},
		{"automation_flag_version", []string{"flag", "flag-001"}, 7},
		{"automation_flag_listed_users", []string{"flag", "automation", "list", "enabled"}, 0},
		{"automation_flag_decisions_total", []string{"flag", "automation"}, 1},
		{"automation_flag_decisions_total", []string{"flag", "", "reason", "missing"}, 1},
		{"automation_flags_loaded", nil, 1},
		{"automation_flags_snapshot_age_seconds", nil, 0},
		{"automation_flags_read_failing", nil, 0},
		{"automation_flags_malformed_rows", nil, 0},
		{"automation_mapping_names", nil, 9},
		{"automation_mapping_loaded_timestamp_seconds", nil, 1_700_000_000},
		{"automation_mapping_refused", nil, 0},
		{"automation_mapping_feed_models", nil, 4},
		{"automation_mapping_feed_failing", nil, 1},
		{"automation_sessions", []string{"state", "open"}, 4},
		{"automation_sessions_held", nil, 2},
		{"automation_sessions_unexplained", nil, 0},
		{"automation_sessions_abandoned", nil, 1},
		{"automation_sessions_due", nil, 3},
		{"automation_sessions_overdue_seconds", nil, 90},
		{"automation_users", []string{"automation", "on"}, 30},
		{"automation_users", []string{"automation", "off"}, 12},
		{"automation_scrape_ok", nil, 1},
		{"automation_db_pool_connections", []string{"state", "in_use"}, 3},
		{"automation_db_pool_max_connections", nil, 20},
		{"automation_db_pool_waits_total", nil, 5},
		{"automation_db_pool_wait_seconds_total", nil, 1.5},
		{"automation_rollout_state", []string{"rollout", "automation", "state", "running"}, 1},
		{"automation_rollout_state", []string{"rollout", "automation", "state", "rolled_back"}, 0},
		{"automation_rollout_stage", []string{"rollout", "automation"}, 1},
		{"automation_rollout_stage_ratio", []string{"rollout", "automation"}, 0.1},
		{"automation_rollout_watched_seconds", []string{"rollout", "automation"}, 60},
		{"automation_rollout_hold_seconds", []string{"rollout", "automation"}, 86400},
		{"automation_rollout_waiting", []string{"rollout", "automation", "reason", "samples"}, 1},
		{"automation_rollout_waiting", []string{"rollout", "automation", "reason", "time"}, 0},
		{"automation_rollout_outcomes", []string{"rollout", "automation", "arm", "control"}, 900},
		{"automation_rollout_failures", []string{"rollout", "automation", "arm", "exposed"}, 2},
		{"automation_rollout_looked_timestamp_seconds", []string{"rollout", "automation"}, 1_700_000_000},
	} {
		if got := value(t, f, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
}

func TestRecorder_BoundsTheNumberOfFlags(t *testing.T) {
	r := metrics.New(metrics.Options{})
	r.Attach(newModule(t, 500))
	f := gather(t, r)
	if n := len(f["automation_flag_enabled"].GetMetric()); n != 50 {
		t.Errorf("%d flags have series of their own, want 50", n)
	}
	if got := value(t, f, "automation_flag_decisions_total", "flag", "other", "reason", "in_percentage") +
		value(t, f, "automation_flag_decisions_total", "flag", "other", "reason", "outside_percentage"); got < 400 {
		t.Errorf("%v decisions about the others, want about 450", got)
	}
	value(t, f, "automation_flag_enabled", "flag", "automation") // fails if it is missing
}

func TestRecorder_CachesStatsBetweenScrapes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModule(t, 1)
		var mu sync.Mutex
		reads, latency := 0, 100*time.Millisecond
		m.stats = func(ctx context.Context) (session.Stats, error) {
			mu.Lock()
			reads++
			mu.Unlock()
			select {
			case <-time.After(latency):
				return session.Stats{}, nil
			case <-ctx.Done():
				return session.Stats{}, ctx.Err()
			}
		}
		r := metrics.New(metrics.Options{})
		r.Attach(m)
		var scrapes sync.WaitGroup
		for range 20 {
			scrapes.Go(func() { gather(t, r) })
		}
		scrapes.Wait()
		if reads != 1 || m.optInReads != 1 {
			t.Errorf("20 scrapes at once read the statistics %d times and the opt-ins %d times, want once each", reads, m.optInReads)
		}
		for range 60 {
			time.Sleep(time.Second)
			gather(t, r)
		}
		if reads > 7 || reads < 6 || m.optInReads != 2 {
			t.Errorf("a minute of scrapes, one a second, read the statistics %d times and the opt-ins %d times, want 6 or 7, and 2", reads, m.optInReads)
		}

		latency = time.Hour
		time.Sleep(time.Minute)
		before := reads
		for range 5 {
			start := time.Now()
			f := gather(t, r)
			if took := time.Since(start); took > time.Second {
				t.Errorf("a scrape took %v while the database did not answer, want at most a second", took)
			}
			if got := value(t, f, "automation_scrape_ok"); got != 0 {
				t.Errorf("automation_scrape_ok is %v while the database does not answer", got)
			}
			if f["automation_sessions_held"] != nil {
				t.Error("automation_sessions_held is exported without a count from the database")
			}
		}
		if reads != before+1 {
			t.Errorf("a database that does not answer was read %d times within ten seconds, want once", reads-before)
		}
	})
}

func TestRecorder_ExportsTheRestWhenTheDatabaseFails(t *testing.T) {
	m := newModule(t, 1)
	m.stats = func(context.Context) (session.Stats, error) { return session.Stats{}, errors.New("away") }
	r := newObserved(metrics.Options{})
	r.Attach(m)
	f := gather(t, r)
	if got := value(t, f, "automation_scrape_ok"); got != 0 {
		t.Errorf("automation_scrape_ok is %v after the statistics could not be read, want 0", got)
	}
	value(t, f, "automation_feature_enabled") // fails if it is missing
	value(t, f, "automation_session_opens_total", "cause", "request", "result", "opened")
}

func TestRecorder_FollowsPrometheusConventions(t *testing.T) {
	r := newObserved(metrics.Options{})
	r.Attach(newModule(t, 1))
	var list []*dto.MetricFamily
	for _, f := range gather(t, r) {
		list = append(list, f)
	}
	problems, err := promlint.NewWithMetricFamilies(list).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestRecorders_RegisterSideBySideWithConstLabels(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, module := range []string{"chat", "batch"} {
		r := newObserved(metrics.Options{ConstLabels: prometheus.Labels{"module": module}})
		r.Attach(newModule(t, 1))
		if err := registry.Register(r); err != nil {
			t.Fatalf("module %s: %v", module, err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		modules := map[string]int{}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "module" {
					modules[l.GetValue()]++
				}
			}
		}
		if modules["chat"] == 0 || modules["chat"] != modules["batch"] || modules["chat"]+modules["batch"] != len(f.GetMetric()) {
			t.Errorf("%s has series by module %v of %d in all, want the same number for chat and batch and no others", f.GetName(), modules, len(f.GetMetric()))
		}
	}
}
