//! Metric names, in one place. Labels are few and bounded: never a row key.

use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Every metric of one daemon, in a registry of its own, so that two daemons can live in one process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Requests to the webhook path, by outcome.
    pub webhook_requests: IntCounterVec,
    /// Notifications in one commit.
    pub commit_batch: Histogram,
    /// GraphQL requests, by outcome.
    pub api_requests: IntCounterVec,
    /// Rows asked for.
    pub rows_fetched: IntCounter,
    /// Rows settled, by what was done.
    pub rows_settled: IntCounterVec,
    /// Rows and notifications that wait.
    pub backlog_rows: IntGauge,
    /// Seconds since the oldest waiting notification was received.
    pub oldest_waiting_seconds: IntGauge,
    /// Dead letters, by kind.
    pub dead_letters: IntGaugeVec,
    /// Tables that change although no notification of them comes any more.
    pub silent_tables: IntGauge,
    /// 1 while the API does not answer.
    pub api_away: IntGauge,
    /// How much later rows are dated than their notifications announced.
    pub source_zone_shift_seconds: IntGauge,
    /// From a change to the receipt of its notification, by two clocks.
    pub notification_delay_seconds: IntGauge,
}

impl Metrics {
    /// Metrics at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let vec = |name: &str, help: &str, label: &str| {
            let counter = IntCounterVec::new(Opts::new(name, help), &[label]).expect("the name is well formed");
            registry.register(Box::new(counter.clone())).expect("the name is unique");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is well formed");
            registry.register(Box::new(gauge.clone())).expect("the name is unique");
            gauge
        };
        let buckets = vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0];
        let commit_batch = Histogram::with_opts(
            HistogramOpts::new("nxt_mirror_commit_batch", "Notifications stored by one commit").buckets(buckets),
        )
        .expect("the name is well formed");
        let rows_fetched = IntCounter::new("nxt_mirror_rows_fetched_total", "Rows asked for over GraphQL")
            .expect("the name is well formed");
        let dead_letters =
            IntGaugeVec::new(Opts::new("nxt_mirror_dead_letters", "Dead letters"), &["kind"]).expect("well formed");
        for collector in [
            Box::new(commit_batch.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(rows_fetched.clone()),
            Box::new(dead_letters.clone()),
        ] {
            registry.register(collector).expect("the name is unique");
        }
        Self {
            webhook_requests: vec("nxt_mirror_webhook_requests_total", "Requests to the webhook path", "outcome"),
            commit_batch,
            api_requests: vec("nxt_mirror_api_requests_total", "GraphQL requests", "outcome"),
            rows_fetched,
            rows_settled: vec("nxt_mirror_rows_settled_total", "Rows settled", "action"),
            backlog_rows: gauge("nxt_mirror_backlog_rows", "Rows and notifications that wait to be settled"),
            oldest_waiting_seconds: gauge(
                "nxt_mirror_oldest_waiting_seconds",
                "Seconds since the oldest waiting notification was received",
            ),
            dead_letters,
            silent_tables: gauge(
                "nxt_mirror_silent_tables",
                "Tables of tenants that change although no notification of them comes any more",
            ),
            api_away: gauge("nxt_mirror_api_away", "1 while the API does not answer"),
            source_zone_shift_seconds: gauge(
                "nxt_mirror_source_zone_shift_seconds",
                "How much later recent rows are dated than their notifications announced: the median",
            ),
            notification_delay_seconds: gauge(
                "nxt_mirror_notification_delay_seconds",
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
