package metrics

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/internal/policy"
	"github.com/MorpheusAIs/gateway-automation/automation/outcome"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// Histogram buckets in seconds.
var (
	databaseBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	requestBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .15, .2, .3, .5, 1, 2.5, 5, 10, 30, 60}
	chainBuckets    = []float64{.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300}
	durationBuckets = []float64{300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400}
	cleanupBuckets  = []float64{.1, 1, 10, 60, 300, 900, 1800, 3600}
)

// events has the metrics that the module's events increment.
type events struct {
	acquire      *prometheus.HistogramVec
	opens        *prometheus.CounterVec
	open         *prometheus.HistogramVec
	lifetime     prometheus.Histogram
	collisions   prometheus.Counter
	takeovers    prometheus.Counter
	adopted      prometheus.Counter
	abandoned    *prometheus.CounterVec
	leases       prometheus.Counter
	retired      *prometheus.CounterVec
	replacements *prometheus.CounterVec
	mismatches   *prometheus.CounterVec
	cooldowns    prometheus.Counter
	closes       *prometheus.CounterVec
	maintenance  *prometheus.CounterVec
	maintainedAt *prometheus.GaugeVec

	api             *prometheus.CounterVec
	apiDuration     *prometheus.HistogramVec
	chat            *prometheus.CounterVec
	overhead        *prometheus.HistogramVec
	auth            *prometheus.CounterVec
	settingsChanges *prometheus.CounterVec

	queries       *prometheus.CounterVec
	queryDuration *prometheus.HistogramVec
	slotWait      prometheus.Histogram

	cleanups        *prometheus.CounterVec
	cleanedRows     *prometheus.CounterVec
	cleanedAt       prometheus.Gauge
	cleanupDuration prometheus.Histogram
}

// factory makes metrics with the recorder's constant labels.
type factory struct{ constLabels prometheus.Labels }

func (f factory) counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: f.constLabels})
}

func (f factory) counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: f.constLabels}, labels)
}

func (f factory) gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: f.constLabels})
}

func (f factory) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: f.constLabels}, labels)
}

func (f factory) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, ConstLabels: f.constLabels})
}

func (f factory) histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, ConstLabels: f.constLabels}, labels)
}

func newEvents(constLabels prometheus.Labels) *events {
	f := factory{constLabels}
	e := &events{
		acquire: f.histograms("automation_session_acquire_duration_seconds",
			"Time that requests waited for a session, by result.", requestBuckets, "result"),
		opens: f.counters("automation_session_opens_total",
			"Finished opens of sessions, by cause and result.", "cause", "result"),
		open: f.histograms("automation_session_open_duration_seconds",
			"Duration of opens, by result.", chainBuckets, "result"),
		lifetime: f.histogram("automation_session_lifetime_seconds",
			"Duration for which sessions were opened.", durationBuckets),
		collisions: f.counter("automation_session_wallet_collisions_total",
			"Transactions of the wallet that collided with another one."),
		takeovers: f.counter("automation_session_takeovers_total",
			"Unfinished opens of stopped replicas that this replica took over."),
		adopted: f.counter("automation_session_orphans_adopted_total",
			"Sessions of opens with an unknown outcome that were found on the chain."),
		abandoned: f.counters("automation_session_doubts_given_up_total",
			"Opens with an unknown outcome whose session was not found, by what they became.", "result"),
		leases: f.counter("automation_session_leases_lost_total",
			"Leases that this replica could not extend in time; the requests under them were canceled."),
		retired: f.counters("automation_session_retired_total",
			"Sessions that were taken out of service before their end, by reason.", "reason"),
		replacements: f.counters("automation_session_replacements_total",
			"Attempts to replace a session that does not work, by result.", "result"),
		mismatches: f.counters("automation_session_mismatches_total",
			"Opened sessions that differ from what was requested, by what differs.", "kind"),
		cooldowns: f.counter("automation_session_cooldowns_total",
			"Sessions set aside for a while because the node may still be working for a request that has left."),
		closes: f.counters("automation_session_closes_total",
			"Attempts to close sessions, by result.", "result"),
		maintenance: f.counters("automation_session_maintenance_rounds_total",
			"Rounds of maintenance, by work and result.", "work", "result"),
		maintainedAt: f.gauges("automation_session_maintenance_last_success_timestamp_seconds",
			"Time of the last successful round of maintenance.", "work"),

		api: f.counters("automation_api_requests_total",
			"Requests to the users' and the operators' API, by route and status.", "route", "code"),
		apiDuration: f.histograms("automation_api_request_duration_seconds",
			"Duration of requests to the users' and the operators' API, by route.", requestBuckets, "route"),
		chat: f.counters("automation_chat_requests_total",
			"Chat requests by outcome, cause and reason.", "outcome", "cause", "reason"),
		overhead: f.histograms("automation_chat_overhead_seconds",
			"Time that automation added before requests were passed on or refused.", requestBuckets, "outcome"),
		auth: f.counters("automation_auth_failures_total",
			"Requests without a valid key or token, by API.", "path"),
		settingsChanges: f.counters("automation_settings_changes_total",
			"Changes of users' settings, by kind.", "change"),

		queries: f.counters("automation_db_queries_total",
			"Calls to the database, by query and result.", "query", "result"),
		queryDuration: f.histograms("automation_db_query_duration_seconds",
			"Duration of calls to the database, including all waiting.", databaseBuckets, "query"),
		slotWait: f.histogram("automation_db_slot_wait_seconds",
			"Time that calls to the database waited for one of the module's connections.", databaseBuckets),

		cleanups: f.counters("automation_cleanup_passes_total",
			"Clean-up passes, by result.", "result"),
		cleanedRows: f.counters("automation_cleanup_rows_removed_total",
			"Rows removed by the clean-up, by table.", "table"),
		cleanedAt: f.gauge("automation_cleanup_last_success_timestamp_seconds",
			"Time when this replica last finished a clean-up pass."),
		cleanupDuration: f.histogram("automation_cleanup_duration_seconds",
			"Duration of clean-up passes.", cleanupBuckets),
	}
	e.initSeries()
	return e
}

// initSeries creates the series whose labels are known. Without it, increase() would
// miss the first increment of a series, because the series did not exist before.
func (e *events) initSeries() {
	for _, result := range []string{"idle", "waited", "budget", "busy", "opening", "node", "refused", "database", "paid", "provider"} {
		e.acquire.WithLabelValues(result)
	}
	for _, result := range []string{"opened", "refused", "node", "abandoned", "not_needed", "unknown"} {
		e.open.WithLabelValues(result)
		for _, cause := range []string{"request", "renewal", "prewarm", "replacement"} {
			e.opens.WithLabelValues(cause, result)
		}
	}
	for _, result := range []string{"lost", "failed"} {
		e.abandoned.WithLabelValues(result)
	}
	e.retired.WithLabelValues("expired")
	for _, result := range []string{"idle", "opened", "budget", "opening", "node", "refused", "database", "paid", "provider", "canceled", "ending"} {
		e.replacements.WithLabelValues(result)
	}
	for _, kind := range []string{"provider", "model", "length"} {
		e.mismatches.WithLabelValues(kind)
	}
	for _, result := range []string{"closed", "failed"} {
		e.closes.WithLabelValues(result)
	}
	for _, work := range []string{"opens", "closes"} {
		e.maintenance.WithLabelValues(work, "ok")
		e.maintenance.WithLabelValues(work, "failed")
	}
	chat := func(o outcome.Outcome) {
		e.chat.WithLabelValues(string(o.Result()), string(o.Cause), string(o.Code))
	}
	chat(outcome.Outcome{Cause: outcome.None})
	for _, skip := range policy.Skips() {
		chat(outcome.Outcome{Cause: outcome.Off, Code: skip, Skipped: true})
	}
	for _, code := range policy.Codes() {
		for _, cause := range policy.CausesOf(code) {
			chat(outcome.Outcome{Cause: cause, Code: code})
		}
	}
	e.auth.WithLabelValues(pathAPI)
	e.auth.WithLabelValues(pathChat)
	for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
		for _, code := range []string{"200", "500", "503"} {
			e.api.WithLabelValues(method+" /api/v1/automation/settings", code)
		}
		e.apiDuration.WithLabelValues(method + " /api/v1/automation/settings")
	}
	for _, result := range []string{"ok", "unavailable", "unknown"} {
		e.queries.WithLabelValues("flags.load", result)
	}
	for _, r := range []outcome.Result{outcome.Untouched, outcome.Served, outcome.Refused, outcome.Failed} {
		e.overhead.WithLabelValues(string(r))
	}
	for _, c := range []string{"opt_in", "opt_out", "other"} {
		e.settingsChanges.WithLabelValues(c)
	}
	for _, result := range []string{"ok", "busy", "failed"} {
		e.cleanups.WithLabelValues(result)
	}
}

func (e *events) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		e.acquire, e.opens, e.open, e.lifetime, e.collisions, e.takeovers, e.adopted, e.abandoned, e.leases, e.retired, e.replacements, e.mismatches, e.cooldowns, e.closes, e.maintenance, e.maintainedAt,
		e.api, e.apiDuration, e.chat, e.overhead, e.auth, e.settingsChanges, e.queries, e.queryDuration, e.slotWait, e.cleanups, e.cleanedRows, e.cleanedAt, e.cleanupDuration,
	}
}

// Observer returns the functions that pass a module's events to the Recorder. Set
// it as automation.Options.Observer.
func (r *Recorder) Observer() automation.Observer {
	return automation.Observer{SQL: r.observeSQL, API: r.observeAPI, Chat: r.observeChat, Settings: r.observeSettings,
		Session: r.observeSession, Cleanup: r.observeCleanup}
}

func (r *Recorder) observeSQL(name string, wait, took time.Duration, err error) {
	r.events.queries.WithLabelValues(name, queryResult(err)).Inc()
	r.events.queryDuration.WithLabelValues(name).Observe(took.Seconds())
	r.events.slotWait.Observe(wait.Seconds())
}

// queryResult classifies a database error for the label result.
func queryResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, settings.ErrOutcomeUnknown):
		return "unknown"
	case errors.Is(err, settings.ErrUnavailable):
		return "unavailable"
	}
	return "refused"
}

// Values of the label path of authentication failures.
const (
	pathAPI  = "api"
	pathChat = "chat"
)

func (r *Recorder) observeAPI(o outcome.Outcome) {
	route := cmp.Or(o.Route, "other")
	r.events.api.WithLabelValues(route, strconv.Itoa(o.Status)).Inc()
	r.events.apiDuration.WithLabelValues(route).Observe(o.Latency.Seconds())
	if o.Status == http.StatusUnauthorized {
		r.events.auth.WithLabelValues(pathAPI).Inc()
	}
}

func (r *Recorder) observeChat(o outcome.Outcome) {
	result := string(o.Result())
	r.events.chat.WithLabelValues(result, string(o.Cause), string(o.Code)).Inc()
	r.events.overhead.WithLabelValues(result).Observe(o.Overhead.Seconds())
	if o.Code == outcome.CodeInvalidKey {
		r.events.auth.WithLabelValues(pathChat).Inc()
	}
}

func (r *Recorder) observeSettings(before, after settings.Settings) {
	change := "other" // a duration, or nothing
	switch {
	case !before.IsEnabled && after.IsEnabled:
		change = "opt_in"
	case before.IsEnabled && !after.IsEnabled:
		change = "opt_out"
	}
	r.events.settingsChanges.WithLabelValues(change).Inc()
}

func (r *Recorder) observeSession(v session.Event) {
	e := r.events
	switch v.Kind {
	case session.Acquired:
		e.acquire.WithLabelValues(v.Result).Observe(v.Took.Seconds())
	case session.Opened:
		e.opens.WithLabelValues(v.Cause, v.Result).Inc()
		e.open.WithLabelValues(v.Result).Observe(v.Took.Seconds())
		if v.Result == "opened" {
			e.lifetime.Observe(v.Asked.Seconds())
		}
	case session.Collided:
		e.collisions.Inc()
	case session.TakenOver:
		e.takeovers.Inc()
	case session.Adopted:
		e.adopted.Inc()
	case session.GivenUp:
		e.abandoned.WithLabelValues(v.Result).Inc()
	case session.LeaseLost:
		e.leases.Inc()
	case session.Retired:
		e.retired.WithLabelValues(v.Result).Inc()
	case session.Replaced:
		e.replacements.WithLabelValues(v.Result).Inc()
	case session.Mismatched:
		e.mismatches.WithLabelValues(v.Result).Inc()
	case session.CooledDown:
		e.cooldowns.Inc()
	case session.Closed:
		e.closes.WithLabelValues(v.Result).Inc()
	case session.Maintained:
		e.maintenance.WithLabelValues(v.Cause, v.Result).Inc()
		if v.Result == "ok" {
			e.maintainedAt.WithLabelValues(v.Cause).Set(unix(r.now()))
		}
	}
}

func (r *Recorder) observeCleanup(removed map[string]int64, took time.Duration, err error) {
	for table, rows := range removed {
		r.events.cleanedRows.WithLabelValues(table).Add(float64(rows))
	}
	switch {
	case errors.Is(err, cleanup.ErrBusy):
		r.events.cleanups.WithLabelValues("busy").Inc()
	case err != nil:
		r.events.cleanups.WithLabelValues("failed").Inc()
	default:
		r.events.cleanups.WithLabelValues("ok").Inc()
		r.events.cleanupDuration.Observe(took.Seconds())
		r.events.cleanedAt.Set(unix(r.now()))
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
