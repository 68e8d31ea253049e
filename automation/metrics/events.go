package metrics

import (
	"cmp"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/MorpheusAIs/gateway-automation/automation"
	"github.com/MorpheusAIs/gateway-automation/automation/session"
	"github.com/MorpheusAIs/gateway-automation/internal/cleanup"
	"github.com/MorpheusAIs/gateway-automation/settings"
)

// The buckets of what waits for a database, for a request, and for the chain,
// and of sessions' durations; all in seconds.
var (
	databaseBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}
	requestBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .15, .2, .3, .5, 1, 2.5, 5, 10, 30, 60}
	chainBuckets    = []float64{.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 180, 300}
	durationBuckets = []float64{300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400}
	cleanupBuckets  = []float64{.1, 1, 10, 60, 300, 900, 1800, 3600}
)

// events are the metrics that the module's Observer feeds.
type events struct {
	acquire    *prometheus.HistogramVec
	opens      *prometheus.CounterVec
	open       *prometheus.HistogramVec
	asked      prometheus.Histogram
	collisions prometheus.Counter
	takeovers  prometheus.Counter
	adopted    prometheus.Counter
	givenUp    *prometheus.CounterVec
	leases     prometheus.Counter
	retired    *prometheus.CounterVec
	closes     *prometheus.CounterVec
	rounds     *prometheus.CounterVec
	rounded    *prometheus.GaugeVec

	api      *prometheus.CounterVec
	apiTook  *prometheus.HistogramVec
	chat     *prometheus.CounterVec
	overhead *prometheus.HistogramVec
	auth     *prometheus.CounterVec
	changes  *prometheus.CounterVec

	queries   *prometheus.CounterVec
	queryTook *prometheus.HistogramVec
	slotWait  prometheus.Histogram

	passes  *prometheus.CounterVec
	removed *prometheus.CounterVec
	cleaned prometheus.Gauge
	passed  prometheus.Histogram
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
}

func histograms(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

func newEvents() *events {
	e := &events{
		acquire: histograms("automation_session_acquire_duration_seconds",
			"How long requests waited for their session, by what came of it.", requestBuckets, "result"),
		opens: counters("automation_session_opens_total",
			"Opens that have ended, by why they were made and what came of them.", "cause", "result"),
		open: histograms("automation_session_open_duration_seconds",
			"How long opens took, by what came of them.", chainBuckets, "result"),
		asked: histogram("automation_session_lifetime_seconds",
			"For how long sessions were opened.", durationBuckets),
		collisions: counter("automation_session_wallet_collisions_total",
			"Transactions of the wallet that met another."),
		takeovers: counter("automation_session_takeovers_total",
			"Opens of replicas that have stopped, taken over by this one."),
		adopted: counter("automation_session_orphans_adopted_total",
			"Paid sessions of opens in doubt that were found on the chain."),
		givenUp: counters("automation_session_doubts_given_up_total",
			"Opens in doubt that came to nothing.", "result"),
		leases: counter("automation_session_leases_lost_total",
			"Leases that this replica could not extend in time; the work under them was ended."),
		retired: counters("automation_session_retired_total",
			"Sessions that went out of service before their end.", "reason"),
		closes: counters("automation_session_closes_total",
			"Attempts to close sessions, by what came of them.", "result"),
		rounds: counters("automation_session_maintenance_rounds_total",
			"Rounds of maintenance, by their work and what came of them.", "work", "result"),
		rounded: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "automation_session_maintenance_last_success_timestamp_seconds",
			Help: "When a round of maintenance last succeeded."}, []string{"work"}),

		api: counters("automation_api_requests_total",
			"Requests to the users' and the operators' API, by route and status.", "route", "code"),
		apiTook: histograms("automation_api_request_duration_seconds",
			"How long answers of the users' and the operators' API took, by route.", requestBuckets, "route"),
		chat: counters("automation_chat_requests_total",
			"Requests on the path of chats, by what became of them and why.", "outcome", "reason"),
		overhead: histograms("automation_chat_overhead_seconds",
			"What automation added before requests went on or were refused.", requestBuckets, "outcome"),
		auth: counters("automation_auth_failures_total",
			"Requests without a valid key or token, by where they came.", "path"),
		changes: counters("automation_settings_changes_total",
			"Users' changes of their settings, by what they meant.", "change"),

		queries: counters("automation_db_queries_total",
			"Uses of the database, by query and what came of them.", "query", "result"),
		queryTook: histograms("automation_db_query_duration_seconds",
			"How long uses of the database took, all waiting included.", databaseBuckets, "query"),
		slotWait: histogram("automation_db_slot_wait_seconds",
			"How long uses of the database waited for one of the module's connections.", databaseBuckets),

		passes: counters("automation_cleanup_passes_total",
			"Passes of the clean-up, by what came of them.", "result"),
		removed: counters("automation_cleanup_rows_removed_total",
			"Rows that the clean-up has removed.", "table"),
		cleaned: prometheus.NewGauge(prometheus.GaugeOpts{Name: "automation_cleanup_last_success_timestamp_seconds",
			Help: "When this replica last finished a pass of the clean-up."}),
		passed: histogram("automation_cleanup_duration_seconds",
			"How long passes of the clean-up took.", cleanupBuckets),
	}
	e.begin()
	return e
}

// begin makes the series whose labels are known, so that their first increase
// shows as one.
func (e *events) begin() {
	for _, result := range []string{"idle", "waited", "budget", "busy", "opening", "node", "refused", "database"} {
		e.acquire.WithLabelValues(result)
	}
	for _, result := range []string{"opened", "refused", "node", "abandoned", "unknown"} {
		e.open.WithLabelValues(result)
		for _, cause := range []string{"request", "renewal", "prewarm"} {
			e.opens.WithLabelValues(cause, result)
		}
	}
	for _, result := range []string{"lost", "failed"} {
		e.givenUp.WithLabelValues(result)
	}
	for _, reason := range []string{"expired", "broken"} {
		e.retired.WithLabelValues(reason)
	}
	for _, result := range []string{"closed", "failed"} {
		e.closes.WithLabelValues(result)
	}
	for _, work := range []string{"opens", "closes"} {
		e.rounds.WithLabelValues(work, "ok")
		e.rounds.WithLabelValues(work, "failed")
	}
	for _, reason := range []string{automation.AsideMethod, automation.AsideMaster, automation.AsideNobody, automation.AsideRollout,
		automation.AsideOptedOut, automation.AsideSettings, automation.AsideSession} {
		e.chat.WithLabelValues(string(automation.Untouched), reason)
	}
	e.chat.WithLabelValues(string(automation.Served), "")
	e.auth.WithLabelValues(pathAPI)
	e.auth.WithLabelValues(pathChat)
	for _, code := range []string{"session_unavailable", "provider_error", "stream_interrupted"} {
		e.chat.WithLabelValues(string(automation.Failed), code)
	}
	for _, o := range []automation.Outcome{automation.Untouched, automation.Served, automation.Refused, automation.Failed} {
		e.overhead.WithLabelValues(string(o))
	}
	for _, c := range []automation.SettingsChange{automation.OptedIn, automation.OptedOut, automation.OtherSettings} {
		e.changes.WithLabelValues(string(c))
	}
	for _, result := range []string{"ok", "busy", "failed"} {
		e.passes.WithLabelValues(result)
	}
}

func (e *events) all() []prometheus.Collector {
	return []prometheus.Collector{
		e.acquire, e.opens, e.open, e.asked, e.collisions, e.takeovers, e.adopted, e.givenUp, e.leases, e.retired, e.closes, e.rounds, e.rounded,
		e.api, e.apiTook, e.chat, e.overhead, e.auth, e.changes, e.queries, e.queryTook, e.slotWait, e.passes, e.removed, e.cleaned, e.passed,
	}
}

// ObserveSQL is that of an automation.Observer.
func (r *Recorder) ObserveSQL(name string, wait, took time.Duration, err error) {
	r.events.queries.WithLabelValues(name, queryResult(err)).Inc()
	r.events.queryTook.WithLabelValues(name).Observe(took.Seconds())
	r.events.slotWait.Observe(wait.Seconds())
}

// queryResult tells the database's failures from its answers.
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

// Where a key or token may be wrong.
const (
	pathAPI  = "api"
	pathChat = "chat"
)

// ObserveAPI is that of an automation.Observer.
func (r *Recorder) ObserveAPI(route string, status int, took time.Duration) {
	route = cmp.Or(route, "other")
	r.events.api.WithLabelValues(route, strconv.Itoa(status)).Inc()
	r.events.apiTook.WithLabelValues(route).Observe(took.Seconds())
	if status == http.StatusUnauthorized {
		r.events.auth.WithLabelValues(pathAPI).Inc()
	}
}

// ObserveChat is that of an automation.Observer.
func (r *Recorder) ObserveChat(o automation.Outcome, reason string, overhead time.Duration) {
	r.events.chat.WithLabelValues(string(o), reason).Inc()
	r.events.overhead.WithLabelValues(string(o)).Observe(overhead.Seconds())
	if reason == automation.CodeInvalidKey {
		r.events.auth.WithLabelValues(pathChat).Inc()
	}
}

// ObserveSettings is that of an automation.Observer.
func (r *Recorder) ObserveSettings(c automation.SettingsChange) {
	r.events.changes.WithLabelValues(string(c)).Inc()
}

// ObserveSession is that of an automation.Observer.
func (r *Recorder) ObserveSession(v session.Event) {
	e := r.events
	switch v.Kind {
	case session.Acquired:
		e.acquire.WithLabelValues(v.Result).Observe(v.Took.Seconds())
	case session.Opened:
		e.opens.WithLabelValues(v.Cause, v.Result).Inc()
		e.open.WithLabelValues(v.Result).Observe(v.Took.Seconds())
		if v.Result == "opened" {
			e.asked.Observe(v.Asked.Seconds())
		}
	case session.Collided:
		e.collisions.Inc()
	case session.TakenOver:
		e.takeovers.Inc()
	case session.Adopted:
		e.adopted.Inc()
	case session.GivenUp:
		e.givenUp.WithLabelValues(v.Result).Inc()
	case session.LeaseLost:
		e.leases.Inc()
	case session.Retired:
		e.retired.WithLabelValues(v.Result).Inc()
	case session.Closed:
		e.closes.WithLabelValues(v.Result).Inc()
	case session.Maintained:
		e.rounds.WithLabelValues(v.Cause, v.Result).Inc()
		if v.Result == "ok" {
			e.rounded.WithLabelValues(v.Cause).Set(unix(r.now()))
		}
	}
}

// ObserveCleanup is that of an automation.Observer.
func (r *Recorder) ObserveCleanup(c cleanup.Report, err error) {
	for _, n := range c.Removed {
		r.events.removed.WithLabelValues(n.Table).Add(float64(n.Rows))
	}
	switch {
	case errors.Is(err, cleanup.ErrBusy):
		r.events.passes.WithLabelValues("busy").Inc()
	case err != nil:
		r.events.passes.WithLabelValues("failed").Inc()
	default:
		r.events.passes.WithLabelValues("ok").Inc()
		r.events.passed.Observe(c.Took.Seconds())
		r.events.cleaned.Set(unix(r.now()))
	}
}

func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
