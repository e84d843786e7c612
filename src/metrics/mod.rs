//! Metrics, with OpenTelemetry's names where they exist. No label is an address, an id or a
//! subject.
//!
//! The labels of per-event metrics are resolved at start, so that counting allocates nothing.

mod labels;
mod registered;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::http::{Method, StatusCode};
use jiff::Timestamp;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, histogram::Histogram},
};

use self::{
    labels::{
        ClockLabels, DeliveryLabels, DependencyLabels, ErrorLabels, EventLabels, HourLabels,
        HttpLabels, MessagingLabels, PoolLabels, PoolStateLabels, PriorityLabels, QueueLabels,
        ReceiptLabels, RefusedReportLabels, RelayLabels, StepLabels, StreamLabels, TaskLabels,
    },
    registered::Registered,
};
use crate::{
    health::{Health, State},
    routing::Priority,
};

/// Something that happens: it emits its metric, its log line and its span together.
pub(crate) trait InternalEvent {
    fn emit(self, metrics: &Metrics);
}

/// All metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    all: Registered,
    system: &'static str,
    queues: HashMap<String, QueueMetrics>,
    routes: HashMap<String, HashMap<&'static str, Counter>>,
    latency: [Histogram; Priority::ALL.len()],
    claim: Histogram,
    render: Histogram,
    send: Histogram,
    record: Histogram,
    pools: Mutex<Vec<(String, PoolStatus)>>,
    lost_lines: OnceLock<fn() -> u64>,
}

/// Reads the current use of a pool.
type PoolStatus = Box<dyn Fn() -> deadpool::Status + Send + Sync>;

#[derive(Clone)]
struct QueueMetrics {
    consumed: Counter,
    process_duration: Histogram,
}

/// What is counted of one audit record.
pub struct RecordedDelivery<'r> {
    pub route: &'r str,
    pub status: &'static str,
    /// The kind of error, if something went wrong.
    pub failure: Option<&'r str>,
    pub claim_ms: f64,
    pub render_ms: f64,
    pub send_ms: f64,
}

/// Counts a message as in flight until it is dropped.
pub struct InFlight<'m> {
    metrics: &'m Metrics,
    process_duration: Histogram,
    began: Instant,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.0.all.in_flight.dec();
        self.process_duration.observe(self.began.elapsed().as_secs_f64());
    }
}

/// Counts a request as active until it is dropped.
pub struct ActiveRequest<'m>(&'m Metrics);

impl Drop for ActiveRequest<'_> {
    fn drop(&mut self) {
        self.0.0.all.http_active.dec();
    }
}

impl Default for Metrics {
    /// For commands, which serve no metrics.
    fn default() -> Self {
        Self::new("", [], [], &[])
    }
}

impl Metrics {
    /// Metrics of a broker with this name and of its consumed queues, and of deliveries by these routes
    /// and statuses.
    pub fn new<'r>(
        system: &'static str,
        consumed: impl IntoIterator<Item = String>,
        routes: impl IntoIterator<Item = &'r str>,
        statuses: &[&'static str],
    ) -> Self {
        let all = Registered::new();
        let queues =
            consumed.into_iter().map(|queue| (queue.clone(), queue_metrics(&all, system, queue)));
        // Rejected messages have no route.
        let routes = routes.into_iter().chain([""]).map(|route| {
            let counter = |status: &&'static str| (*status, delivery_counter(&all, route, status));
            (route.to_owned(), statuses.iter().map(counter).collect())
        });
        let step = |step| all.steps.get_or_create_owned(&StepLabels { step });
        let latency = Priority::ALL.map(|priority| {
            all.latency.get_or_create_owned(&PriorityLabels { priority: priority.as_str() })
        });
        Self(Arc::new(Inner {
            queues: queues.collect(),
            routes: routes.collect(),
            latency,
            claim: step("claim"),
            render: step("render"),
            send: step("send"),
            record: step("record"),
            pools: Mutex::default(),
            lost_lines: OnceLock::new(),
            system,
            all,
        }))
    }

    /// A message was taken from a queue. It counts as in flight until the guard is dropped.
    pub fn received(&self, queue: &str) -> InFlight<'_> {
        let known = self.0.queues.get(queue).cloned();
        let known =
            known.unwrap_or_else(|| queue_metrics(&self.0.all, self.0.system, queue.to_owned()));
        known.consumed.inc();
        self.0.all.in_flight.inc();
        InFlight { metrics: self, process_duration: known.process_duration, began: Instant::now() }
    }

    /// A request has started. It counts as active until the guard is dropped.
    pub fn request_started(&self) -> ActiveRequest<'_> {
        self.0.all.http_active.inc();
        ActiveRequest(self)
    }

    pub fn request_finished(
        &self,
        method: &Method,
        route: &str,
        status: StatusCode,
        took: Duration,
    ) {
        // Clients can invent methods.
        const KNOWN: [&str; 5] = ["GET", "POST", "DELETE", "HEAD", "OPTIONS"];
        let method = KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER");
        let labels = HttpLabels {
            http_request_method: method,
            http_route: route.to_owned(),
            http_response_status_code: status.as_u16(),
        };
        self.0.all.http_duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// The broker has confirmed a message to this queue or exchange.
    pub fn published(&self, destination: String) {
        let labels = messaging(self.0.system, "publish", destination);
        self.0.all.published.get_or_create(&labels).inc();
    }

    /// An entry of a stream was forwarded to this queue.
    pub fn forwarded(&self, stream: &str, queue: String) {
        let consume = messaging("redis", "consume", stream.to_owned());
        self.0.all.consumed.get_or_create(&consume).inc();
        self.published(queue);
    }

    pub fn streams(&self, lengths: Vec<(String, u64)>) {
        for (stream, entries) in lengths {
            self.0.all.stream_entries.get_or_create(&StreamLabels { stream }).set(gauge(entries));
        }
    }

    pub fn ignored(&self) {
        self.0.all.ignored.inc();
    }

    /// A delivery came again after it was final.
    pub fn redelivered(&self) {
        self.0.all.redelivered.inc();
    }

    pub fn claim_lost(&self) {
        self.0.all.claims_lost.inc();
    }

    /// A template of the database was rejected.
    pub fn template_refused(&self) {
        self.0.all.templates_refused.inc();
    }

    /// A mail was rendered from a file because the template of the database failed.
    pub fn template_fell_back(&self) {
        self.0.all.templates_fell_back.inc();
    }

    pub fn audit_batch(&self, records: usize) {
        self.0.all.batches.observe(records as f64);
    }

    /// A record can't be stored; a stub is in its place.
    pub fn record_unstorable(&self) {
        self.0.all.records_unstorable.inc();
    }

    /// A record was written, after this time.
    pub fn written(&self, took: Duration) {
        self.0.record.observe(took.as_secs_f64());
    }

    /// A delivery has a new audit record.
    pub fn recorded<'r>(&self, record: impl Into<RecordedDelivery<'r>>) {
        let RecordedDelivery { route, status, failure, claim_ms, render_ms, send_ms } =
            record.into();
        match self.0.routes.get(route).and_then(|statuses| statuses.get(status)) {
            Some(counter) => counter.inc(),
            None => delivery_counter(&self.0.all, route, status).inc(),
        };
        if let Some(kind) = failure {
            let labels = ErrorLabels { error_type: kind.to_owned() };
            self.0.all.errors.get_or_create(&labels).inc();
        }
        let steps =
            [(&self.0.claim, claim_ms), (&self.0.render, render_ms), (&self.0.send, send_ms)];
        for (step, ms) in steps {
            if ms > 0.0 {
                step.observe(ms / 1000.0);
            }
        }
    }

    /// A receipt of this status, for a bounce with its kind, about a mail of this route.
    pub fn receipt(&self, route: &str, status: &'static str, bounce: Option<&'static str>) {
        let bounce = bounce.unwrap_or_default();
        let labels = ReceiptLabels { route: route.to_owned(), status, bounce };
        self.0.all.receipts.get_or_create(&labels).inc();
    }

    /// A provider's report was not believed.
    pub fn report_refused(&self, source: &'static str, reason: &'static str) {
        self.0.all.reports_refused.get_or_create(&RefusedReportLabels { source, reason }).inc();
    }

    /// Counts refused reports of a provider from 0.
    pub fn expect_refusals(&self, source: &'static str, reasons: &[&'static str]) {
        for &reason in reasons {
            let labels = RefusedReportLabels { source, reason };
            drop(self.0.all.reports_refused.get_or_create(&labels));
        }
    }

    /// Counts receipts of these routes from 0.
    pub fn expect_receipts<'r>(
        &self,
        routes: impl IntoIterator<Item = &'r str>,
        kinds: &[(&'static str, &'static str)],
    ) {
        for route in routes {
            for &(status, bounce) in kinds {
                let labels = ReceiptLabels { route: route.to_owned(), status, bounce };
                drop(self.0.all.receipts.get_or_create(&labels));
            }
        }
    }

    /// A mail was accepted by the server, this long after it was published or due.
    pub fn sent(&self, priority: Priority, latency: Duration) {
        self.0.latency[priority as usize].observe(latency.as_secs_f64());
    }

    /// A counter of the mail that goes over a relay although another comes before it.
    pub fn relay_fallback(&self, relay: &str) -> Counter {
        let labels = RelayLabels { relay: relay.to_owned() };
        self.0.all.relay_fallback.get_or_create_owned(&labels)
    }

    /// Scheduled mail: due within each of the next 24 hours, and overdue.
    pub fn planned(&self, by_hour: &[u64], overdue: u64) {
        for (hour, count) in (0..).zip(by_hour) {
            self.0.all.planned.get_or_create(&HourLabels { hour }).set(gauge(*count));
        }
        self.0.all.planned_overdue.set(gauge(overdue));
    }

    /// How long each expected event has not come, in seconds, and whether that is too long.
    pub fn silences(&self, events: impl IntoIterator<Item = (String, f64, bool)>) {
        self.0.all.event_silence.clear();
        self.0.all.event_missing.clear();
        for (event_type, seconds, is_missing) in events {
            let labels = EventLabels { event_type };
            self.0.all.event_silence.get_or_create(&labels).set(seconds);
            self.0.all.event_missing.get_or_create(&labels).set(i64::from(is_missing));
        }
    }

    /// Checkpoints of the audit were written, or are expected from now on.
    pub fn checkpointed(&self, at: Timestamp, interval: Duration) {
        self.0.all.checkpoint_interval.set(interval.as_secs_f64());
        self.0.all.checkpoint_time.set(at.as_duration().as_secs_f64());
    }

    /// The last reload of the configuration was refused or not.
    pub fn reload_refused(&self, is_refused: bool) {
        self.0.all.reload_refused.set(i64::from(is_refused));
    }

    pub fn overdue_retries(&self, count: usize) {
        self.0.all.retries_overdue.set(gauge(count));
    }

    pub fn requests_waiting(&self, count: u64) {
        self.0.all.requests_waiting.set(gauge(count));
    }

    pub fn ledger_moved(&self) {
        self.0.all.ledger_moved.inc();
    }

    pub fn ledger_reclaimed(&self, count: usize) {
        self.0.all.ledger_reclaimed.inc_by(count as u64);
    }

    pub fn clock_skew(&self, clock: &'static str, seconds: f64) {
        self.0.all.clock_skew.get_or_create(&ClockLabels { clock }).set(seconds);
    }

    pub fn listeners(&self, count: usize) {
        self.0.all.feed_listeners.set(gauge(count));
    }

    /// Messages in each queue; empty if the broker does not answer.
    pub fn depths(&self, depths: impl IntoIterator<Item = (String, u32)>) {
        self.0.all.depths.clear();
        for (queue, messages) in depths {
            self.0.all.depths.get_or_create(&QueueLabels { queue }).set(messages.into());
        }
    }

    /// Reads the use of this pool whenever metrics are rendered, instead of that of one with this name.
    pub fn watch_pool(
        &self,
        pool: impl Into<String>,
        status: impl Fn() -> deadpool::Status + Send + Sync + 'static,
    ) {
        let pool = pool.into();
        let mut pools = self.pools();
        pools.retain(|(name, _)| *name != pool);
        pools.push((pool, Box::new(status)));
    }

    /// Reads how many lines of the log were lost whenever metrics are rendered.
    pub fn watch_log(&self, lost_lines: fn() -> u64) {
        let _ = self.0.lost_lines.set(lost_lines);
    }

    /// All metrics in OpenMetrics text format.
    pub fn render(&self, health: &Health) -> Result<String, std::fmt::Error> {
        let all = &self.0.all;
        for dependency in health.all() {
            let state = dependency.state();
            if state != State::Unused {
                let labels = DependencyLabels { dependency: dependency.name().to_owned() };
                all.dependency_up.get_or_create(&labels).set(i64::from(state == State::Up));
                let failures = all.dependency_failures.get_or_create(&labels);
                failures.inner().store(dependency.failures(), Ordering::Relaxed);
            }
        }
        for (task, state) in health.tasks.all() {
            let restarts = all.task_restarts.get_or_create(&TaskLabels { task });
            restarts.inner().store(state.restarts, Ordering::Relaxed);
        }
        for (pool, status) in self.pools().iter() {
            let status = status();
            let idle = status.available;
            for (state, count) in [("used", status.size.saturating_sub(idle)), ("idle", idle)] {
                let labels = PoolStateLabels { pool: pool.clone(), state };
                all.pools.get_or_create(&labels).set(gauge(count));
            }
            let labels = PoolLabels { pool: pool.clone() };
            all.pools_max.get_or_create(&labels).set(gauge(status.max_size));
            all.pools_waiting.get_or_create(&labels).set(gauge(status.waiting));
        }
        if let Some(lost_lines) = self.0.lost_lines.get() {
            all.log_lines_lost.inner().store(lost_lines(), Ordering::Relaxed);
        }
        let mut out = String::new();
        text::encode(&mut out, &all.registry)?;
        Ok(out)
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<(String, PoolStatus)>> {
        self.0.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn queue_metrics(all: &Registered, system: &'static str, queue: String) -> QueueMetrics {
    let consume = messaging(system, "consume", queue.clone());
    let process = messaging(system, "process", queue);
    QueueMetrics {
        consumed: all.consumed.get_or_create_owned(&consume),
        process_duration: all.process_duration.get_or_create_owned(&process),
    }
}

fn delivery_counter(all: &Registered, route: &str, status: &'static str) -> Counter {
    let labels = DeliveryLabels { route: route.to_owned(), status };
    all.recorded.get_or_create_owned(&labels)
}

fn messaging(system: &'static str, operation: &'static str, queue: String) -> MessagingLabels {
    MessagingLabels {
        messaging_system: system,
        messaging_operation_name: operation,
        messaging_destination_name: queue,
    }
}

fn gauge(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}
