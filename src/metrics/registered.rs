//! Every metric with its name and its help.

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
    Answered, Build, Failure, Hour, Messaging, Place, Pool, Queue, Recorded, Service, Stream,
    Taken, Urgency,
};

pub(super) type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

pub(super) struct Registered {
    pub(super) registry: Registry,
    pub(super) consumed: Family<Messaging, Counter>,
    pub(super) process_duration: Histograms<Messaging>,
    pub(super) republished: Family<Messaging, Counter>,
    pub(super) in_flight: Gauge,
    pub(super) recorded: Family<Recorded, Counter>,
    pub(super) errors: Family<Failure, Counter>,
    pub(super) redelivered: Counter,
    pub(super) ignored: Counter,
    pub(super) claims_lost: Counter,
    pub(super) steps: Histograms<Taken>,
    pub(super) latency: Histograms<Urgency>,
    pub(super) batches: Histogram,
    pub(super) records_unstorable: Counter,
    pub(super) pools: Family<Place, Gauge>,
    pub(super) pools_max: Family<Pool, Gauge>,
    pub(super) pools_waiting: Family<Pool, Gauge>,
    pub(super) dependency_up: Family<Service, Gauge>,
    pub(super) dependency_failures: Family<Service, Counter>,
    pub(super) depths: Family<Queue, Gauge>,
    pub(super) stream_entries: Family<Stream, Gauge>,
    pub(super) planned: Family<Hour, Gauge>,
    pub(super) planned_overdue: Gauge,
    pub(super) retries_overdue: Gauge,
    pub(super) templates_refused: Counter,
    pub(super) templates_fell_back: Counter,
    pub(super) http_duration: Histograms<Answered>,
    pub(super) http_active: Gauge,
    pub(super) requests_waiting: Gauge,
    pub(super) feed_listeners: Gauge,
}

impl Registered {
    pub(super) fn new() -> Self {
        let mut r = Registry::with_prefix("usher");
        let build = Info::new(Build { version: env!("CARGO_PKG_VERSION") });
        r.register("build", "Which usher this is", build);
        let started = Gauge::<i64>::default();
        started.set(jiff::Timestamp::now().as_second());
        r.register_with_unit("start_time", "When it started, since 1970", Unit::Seconds, started);
        Self {
            consumed: made(
                &mut r,
                "messaging_client_consumed_messages",
                "Messages taken from each queue and stream",
            ),
            process_duration: timed(
                &mut r,
                "messaging_process_duration",
                "From taking a message until it may be acknowledged; its count is the messages processed",
                quick,
            ),
            republished: made(
                &mut r,
                "messaging_client_sent_messages",
                "Hand-offs to each of usher's own queues, and what came from streams to the others, confirmed by the broker",
            ),
            in_flight: made(&mut r, "messages_in_flight", "Messages that are being processed"),
            recorded: made(&mut r, "deliveries_recorded", "Audit records by route and status"),
            errors: made(
                &mut r,
                "delivery_errors",
                "Failed attempts and refused messages, by the kind of error",
            ),
            redelivered: made(
                &mut r,
                "deliveries_redelivered",
                "Deliveries met again after their end",
            ),
            ignored: made(&mut r, "events_ignored", "Events of types that nobody asked to handle"),
            claims_lost: made(
                &mut r,
                "claims_lost",
                "Claims on a delivery that were no longer held when it mattered",
            ),
            steps: timed(
                &mut r,
                "delivery_step_duration",
                "Time taken by each step: claim (with the wait for a connection), render, send, record (until the audit has it)",
                quick,
            ),
            latency: timed(
                &mut r,
                "delivery_latency",
                "From publishing, or from when it was due, until the mail server took the mail; retries are part of it. AMQP counts in whole seconds",
                slow,
            ),
            batches: batches(&mut r),
            records_unstorable: made(
                &mut r,
                "audit_records_unstorable",
                "Records that the audit can't hold, in whose place stands a stub",
            ),
            pools: made(
                &mut r,
                "pool_connections",
                "Connections to the mail server (smtp) and channels to publish (publish), used and idle",
            ),
            pools_max: made(&mut r, "pool_connections_max", "Most that a pool may have"),
            pools_waiting: made(&mut r, "pool_waiting", "Those who wait for one of a pool"),
            dependency_up: made(
                &mut r,
                "dependency_up",
                "Whether a dependency answers; of smtp: whether the breaker is closed",
            ),
            dependency_failures: made(
                &mut r,
                "dependency_failures",
                "How often a dependency stopped answering; of smtp: how often the breaker opened",
            ),
            depths: made(
                &mut r,
                "queue_messages",
                "Messages that wait in each queue, as all instances see it",
            ),
            stream_entries: made(
                &mut r,
                "stream_entries",
                "Entries in each stream that is forwarded, as all instances see it",
            ),
            planned: made(
                &mut r,
                "planned",
                "Mail that is due within each of the next 24 hours, as all instances see it",
            ),
            planned_overdue: made(
                &mut r,
                "planned_overdue",
                "Planned mail that should be gone for 5 minutes",
            ),
            retries_overdue: made(
                &mut r,
                "retries_overdue",
                "Deliveries whose retry should have been made 5 minutes ago",
            ),
            templates_refused: made(
                &mut r,
                "templates_refused",
                "Templates of the database that were not accepted",
            ),
            templates_fell_back: made(
                &mut r,
                "templates_fell_back",
                "Mails made from a file because the template of the database failed",
            ),
            http_duration: timed(
                &mut r,
                "http_server_request_duration",
                "From a request's head until its answer's, by route; its count is the requests answered",
                quick,
            ),
            http_active: made(
                &mut r,
                "http_server_active_requests",
                "Requests that are being answered",
            ),
            requests_waiting: made(
                &mut r,
                "requests_waiting",
                "Requests that came by HTTP and are still to be published, as all instances see it",
            ),
            feed_listeners: made(&mut r, "feed_listeners", "Those who listen to the live feed"),
            registry: r,
        }
    }
}

fn made<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn timed<L>(
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

fn batches(registry: &mut Registry) -> Histogram {
    let metric = Histogram::new([1, 2, 5, 10, 20, 50, 100, 200, 500].map(f64::from));
    registry.register(
        "audit_batch_records",
        "Records written to the audit at once",
        metric.clone(),
    );
    metric
}

/// 0.1 ms to 100 s.
fn quick() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 11))
}

/// A second to a day.
fn slow() -> Histogram {
    Histogram::new([1, 2, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400].map(f64::from))
}
