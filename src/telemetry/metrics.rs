//! Metric names, in one place. Labels are few and bounded: never a row key, never a company.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    core::Collector,
};

/// Seconds: an answer to a webhook, a commit, a request to the API.
const DURATIONS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// Seconds from a notification to its row.
const DELAYS: [f64; 14] = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0];
/// Notifications.
const COUNTS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

/// Every metric of one daemon, in a registry of its own, so that two daemons can live in one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Requests to the webhook path, by outcome.
    pub webhook_requests: IntCounterVec,
    /// Seconds that a request to the webhook path took.
    pub webhook_duration: Histogram,
    /// Notifications in one commit.
    pub commit_notifications: Histogram,
    /// Seconds that a commit took.
    pub commit_duration: Histogram,
    /// GraphQL requests, by purpose and outcome.
    pub api_requests: IntCounterVec,
    /// Seconds that a GraphQL request took.
    pub api_duration: Histogram,
    /// Requests of all replicas that hold a part of the budget.
    pub budget_used: IntGauge,
    /// Requests allowed in 60 seconds.
    pub budget_requests: IntGauge,
    /// Rows asked for.
    pub rows_fetched: IntCounter,
    /// Rows settled, by what was done.
    pub rows_settled: IntCounterVec,
    /// Seconds from a row's oldest notification to the transaction that first judged it.
    pub settle_delay: Histogram,
    /// Seconds since the oldest notification was received that is not settled.
    pub lag: IntGauge,
    /// Rows and notifications that wait.
    pub backlog_rows: IntGauge,
    /// Tables of tenants, by state.
    pub targets: IntGaugeVec,
    /// Differences that the last comparisons left.
    pub differences: IntGauge,
    /// Dead letters, by kind.
    pub dead_letters: IntGaugeVec,
    /// Tables that change although no notification of them comes any more.
    pub silent_tables: IntGauge,
    /// 1 while the API does not answer.
    pub api_away: IntGauge,
    /// 1 while the figures of the database are of the moment.
    pub database_up: IntGauge,
    /// How much later rows are dated than their notifications announced.
    pub source_zone_shift_seconds: IntGauge,
    /// From a change to the receipt of its notification, by two clocks.
    pub notification_delay_seconds: IntGauge,
}

impl Metrics {
    /// Metrics at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Maker { registry: &registry };
        make.build_info();
        make.process();
        Self {
            webhook_requests: make.counters("webhook_requests_total", "Requests to the webhook path", &["outcome"]),
            webhook_duration: make.histogram(
                "webhook_duration_seconds",
                "From the head of a request to the webhook path to its answer",
                &DURATIONS,
            ),
            commit_notifications: make.histogram("commit_notifications", "Notifications stored by one commit", &COUNTS),
            commit_duration: make.histogram("commit_duration_seconds", "A commit of notifications", &DURATIONS),
            api_requests: make.counters("api_requests_total", "GraphQL requests", &["purpose", "outcome"]),
            api_duration: make.histogram("api_duration_seconds", "A GraphQL request", &DURATIONS),
            budget_used: make
                .gauge("api_budget_used_requests", "Requests of all replicas that hold a part of the budget"),
            budget_requests: make.gauge("api_budget_requests", "Requests that are allowed in 60 seconds"),
            rows_fetched: make.counter("rows_fetched_total", "Rows asked for over GraphQL"),
            rows_settled: make.counters("rows_settled_total", "Rows settled, by what was done", &["action"]),
            settle_delay: make.histogram(
                "settle_delay_seconds",
                "From the receipt of a row's oldest notification to the transaction that first judged the row",
                &DELAYS,
            ),
            lag: make.gauge("lag_seconds", "Since the oldest notification was received that is not settled"),
            backlog_rows: make.gauge("backlog_rows", "Rows and notifications that wait to be settled"),
            targets: make.gauges("targets", "Tables of companies and customers, by state", "state"),
            differences: make.gauge("differences", "Differences that the last comparison of each table left"),
            dead_letters: make.gauges("dead_letters", "Dead letters, by kind", "kind"),
            silent_tables: make.gauge(
                "silent_tables",
                "Tables of tenants that change although no notification of them comes any more",
            ),
            api_away: make.gauge("api_away", "1 while the API does not answer"),
            database_up: make.gauge("database_up", "1 while the database answers, and what is read from it is of now"),
            source_zone_shift_seconds: make.gauge(
                "source_zone_shift_seconds",
                "How much later recent rows are dated than their notifications announced: the median",
            ),
            notification_delay_seconds: make.gauge(
                "notification_delay_seconds",
                "From recent changes, by the source's clock, to the receipt of their notifications: the median",
            ),
            registry,
        }
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "metrics cannot be rendered");
                String::new()
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes metrics of the daemon's own, and registers them.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let collector = made.expect("the name is well formed");
        self.registry.register(Box::new(collector.clone())).expect("the name is unique");
        collector
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(name, help).namespace("nxt_mirror")
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Self::opts(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Self::opts(name, help), &[label]))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::new(name, help).namespace("nxt_mirror").buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts))
    }

    /// Always 1; which version runs is its label.
    fn build_info(&self) {
        self.gauges("build_info", "Which version runs", "version")
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
    }

    /// Memory, CPU and open files of the process, under the names that all programs use.
    #[cfg(target_os = "linux")]
    fn process(&self) {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        self.registry.register(Box::new(collector)).expect("the names are unique");
    }

    /// They are read from Linux.
    #[cfg(not(target_os = "linux"))]
    fn process(&self) {}
}
