//! Every metric with its name and help text.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry, Unit},
};

use super::labels::{
    BuildLabels, ClockLabels, DeliveryLabels, DependencyLabels, ErrorLabels, EventLabels,
    HourLabels, HttpLabels, MessagingLabels, PoolLabels, PoolStateLabels, PriorityLabels,
    QueueLabels, ReceiptLabels, RefusedReportLabels, RelayLabels, StepLabels, StreamLabels,
    TaskLabels,
};

pub(super) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

pub(super) struct Registered {
    pub(super) registry: Registry,
    pub(super) consumed: Family<MessagingLabels, Counter>,
    pub(super) process_duration: Histograms<MessagingLabels>,
    pub(super) published: Family<MessagingLabels, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) recorded: Family<DeliveryLabels, Counter>,
    pub(super) receipts: Family<ReceiptLabels, Counter>,
    pub(super) reports_refused: Family<RefusedReportLabels, Counter>,
    pub(super) errors: Family<ErrorLabels, Counter>,
    pub(super) redelivered: Counter,
    pub(super) ignored: Counter,
    pub(super) claims_lost: Counter,
    pub(super) steps: Histograms<StepLabels>,
    pub(super) latency: Histograms<PriorityLabels>,
    pub(super) batches: Histogram,
    pub(super) records_unstorable: Counter,
    pub(super) log_lines_lost: Counter,
    pub(super) pools: Family<PoolStateLabels, Gauge>,
    pub(super) pools_max: Family<PoolLabels, Gauge>,
    pub(super) pools_waiting: Family<PoolLabels, Gauge>,
    pub(super) dependency_up: Family<DependencyLabels, Gauge>,
    pub(super) dependency_failures: Family<DependencyLabels, Counter>,
    pub(super) relay_fallback: Family<RelayLabels, Counter>,
    pub(super) task_restarts: Family<TaskLabels, Counter>,
    pub(super) depths: Family<QueueLabels, Gauge>,
    pub(super) stream_entries: Family<StreamLabels, Gauge>,
    pub(super) planned: Family<HourLabels, Gauge>,
    pub(super) planned_overdue: Gauge,
    pub(super) retries_overdue: Gauge,
    pub(super) checkpoint_time: Gauge<f64, AtomicU64>,
    pub(super) checkpoint_interval: Gauge<f64, AtomicU64>,
    pub(super) reload_refused: Gauge,
    pub(super) event_silence: Family<EventLabels, Gauge<f64, AtomicU64>>,
    pub(super) event_missing: Family<EventLabels, Gauge>,
    pub(super) templates_refused: Counter,
    pub(super) templates_fell_back: Counter,
    pub(super) http_duration: Histograms<HttpLabels>,
    pub(super) http_active: Gauge,
    pub(super) requests_waiting: Gauge,
    pub(super) feed_listeners: Gauge,
    pub(super) ledger_moved: Counter,
    pub(super) ledger_reclaimed: Counter,
    pub(super) clock_skew: Family<ClockLabels, Gauge<f64, AtomicU64>>,
}

impl Registered {
    pub(super) fn new() -> Self {
        let mut r = Registry::with_prefix("usher");
        let build = Info::new(BuildLabels { version: env!("CARGO_PKG_VERSION") });
        r.register("build", "Version of usher", build);
        let started = Gauge::<i64>::default();
        started.set(jiff::Timestamp::now().as_second());
        r.register_with_unit(
            "start_time",
            "Start of the process as Unix time",
            Unit::Seconds,
            started,
        );
        Self {
            consumed: register(
                &mut r,
                "messaging_client_consumed_messages",
                "Messages consumed from each queue and stream",
            ),
            process_duration: register_histogram(
                &mut r,
                "messaging_process_duration",
                "Time from the receipt of a message until it may be acknowledged; the count is the number of processed messages",
                fast_buckets,
            ),
            published: register(
                &mut r,
                "messaging_client_sent_messages",
                "Messages to each of usher's own queues, from streams to source queues, and status events, confirmed by the broker",
            ),
            in_flight: register(&mut r, "messages_in_flight", "Messages in progress"),
            recorded: register(&mut r, "deliveries_recorded", "Audit records by route and status"),
            receipts: register(
                &mut r,
                "receipts",
                "Bounces, notices of delivery and complaints about mail that was sent, by route",
            ),
            reports_refused: register(
                &mut r,
                "reports_refused",
                "Reports of mail providers that were not believed, by the reason",
            ),
            errors: register(
                &mut r,
                "delivery_errors",
                "Failed attempts and rejected messages by kind of error",
            ),
            redelivered: register(
                &mut r,
                "deliveries_redelivered",
                "Deliveries that arrived again after they were final",
            ),
            ignored: register(
                &mut r,
                "events_ignored",
                "Events of types that the routes file ignores",
            ),
            claims_lost: register(
                &mut r,
                "claims_lost",
                "Claims that were lost to another owner before they were used",
            ),
            steps: register_histogram(
                &mut r,
                "delivery_step_duration",
                "Duration of each step: claim (including the wait for a connection), render, send, record (until the audit has the record)",
                fast_buckets,
            ),
            latency: register_histogram(
                &mut r,
                "delivery_latency",
                "Time from publishing, or from the due time, until the mail server accepted the mail, including retries. AMQP timestamps are in whole seconds",
                slow_buckets,
            ),
            batches: register_batch_sizes(&mut r),
            log_lines_lost: register(
                &mut r,
                "log_lines_lost",
                "Lines of the log that were not written, because nobody read it fast enough or at all",
            ),
            records_unstorable: register(
                &mut r,
                "audit_records_unstorable",
                "Records that the audit can't store and that were replaced by a stub",
            ),
            pools: register(
                &mut r,
                "pool_connections",
                "Connections to the mail server (smtp, or relay: with its name) and publishing channels (publish), used and idle",
            ),
            pools_max: register(&mut r, "pool_connections_max", "Maximum size of each pool"),
            pools_waiting: register(
                &mut r,
                "pool_waiting",
                "Tasks that wait for a connection of each pool",
            ),
            dependency_up: register(
                &mut r,
                "dependency_up",
                "Whether a dependency answers (smtp: whether the circuit breaker is closed)",
            ),
            dependency_failures: register(
                &mut r,
                "dependency_failures",
                "How often a dependency stopped answering (smtp: how often the circuit breaker opened)",
            ),
            relay_fallback: register(
                &mut r,
                "relay_fallback",
                "Mail sent over a relay because none that comes before it could be used",
            ),
            task_restarts: register(
                &mut r,
                "task_restarts",
                "How often a long-running task was started again because it panicked or returned",
            ),
            depths: register(
                &mut r,
                "queue_messages",
                "Messages waiting in each queue; every instance reports the same number",
            ),
            stream_entries: register(
                &mut r,
                "stream_entries",
                "Entries in each forwarded stream; every instance reports the same number",
            ),
            planned: register(
                &mut r,
                "planned",
                "Scheduled mail that is due within each of the next 24 hours; every instance reports the same number",
            ),
            planned_overdue: register(
                &mut r,
                "planned_overdue",
                "Scheduled mail that is overdue by more than 5 minutes",
            ),
            event_silence: {
                let help = "How long each expected event has not come, quiet hours aside";
                let metric = Family::<EventLabels, Gauge<f64, AtomicU64>>::default();
                r.register_with_unit("expected_event_silence", help, Unit::Seconds, metric.clone());
                metric
            },
            event_missing: register(
                &mut r,
                "expected_event_missing",
                "Whether each expected event has not come for longer than it may",
            ),
            checkpoint_time: seconds(
                &mut r,
                "checkpoint_time",
                "When checkpoints of the audit were last written, since 1970; 0 without a key",
            ),
            checkpoint_interval: seconds(
                &mut r,
                "checkpoint_interval",
                "How often checkpoints of the audit are written; 0 without a key",
            ),
            reload_refused: register(
                &mut r,
                "reload_refused",
                "Whether the last reload of the configuration was refused",
            ),
            retries_overdue: register(
                &mut r,
                "retries_overdue",
                "Deliveries whose retry is overdue by more than 5 minutes",
            ),
            templates_refused: register(
                &mut r,
                "templates_refused",
                "Templates of the database that were rejected",
            ),
            templates_fell_back: register(
                &mut r,
                "templates_fell_back",
                "Mails rendered from a file because the template of the database failed",
            ),
            http_duration: register_histogram(
                &mut r,
                "http_server_request_duration",
                "Time from request headers to response headers by route; the count is the number of requests",
                fast_buckets,
            ),
            http_active: register(&mut r, "http_server_active_requests", "Requests in progress"),
            requests_waiting: register(
                &mut r,
                "requests_waiting",
                "Requests by HTTP that wait to be published; every instance reports the same number",
            ),
            feed_listeners: register(&mut r, "feed_listeners", "Clients of the live feed"),
            ledger_moved: register(
                &mut r,
                "ledger_moved",
                "How often Redis turned out to be another server, or to have been started again",
            ),
            ledger_reclaimed: register(
                &mut r,
                "ledger_reclaimed",
                "Deliveries in progress that were written again to a Redis that may have lost them",
            ),
            clock_skew: {
                let metric = Family::<ClockLabels, Gauge<f64, AtomicU64>>::default();
                let help = "How far the clock of this host, of Redis and of MongoDB is ahead of the time that usher goes by, their median";
                r.register_with_unit("clock_skew", help, Unit::Seconds, metric.clone());
                metric
            },
            registry: r,
        }
    }
}

fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, help: &str) -> Gauge<f64, AtomicU64> {
    let metric = Gauge::<f64, AtomicU64>::default();
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

fn register_histogram<L>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    make: fn() -> Histogram,
) -> Histograms<L>
where
    Histograms<L>: Metric,
    L: Clone + std::hash::Hash + Eq,
{
    let metric = Histograms::new_with_constructor(make);
    registry.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

fn register_batch_sizes(registry: &mut Registry) -> Histogram {
    let metric = Histogram::new([1, 2, 5, 10, 20, 50, 100, 200, 500].map(f64::from));
    registry.register(
        "audit_batch_records",
        "Records written to the audit at once",
        metric.clone(),
    );
    metric
}

/// 0.1 ms to 100 s.
fn fast_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 11))
}

/// A second to a day.
fn slow_buckets() -> Histogram {
    Histogram::new([1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400].map(f64::from))
}
